//! Datapaths are found among all that the kernel holds.

use super::*;

#[test]
fn a_loaded_datapath_is_found_with_its_process_and_what_it_has_counted() {
    let mut rig = Rig::new(V4);
    let packet = Segment { syn: false, payload: vec![7; 10], ..syn(V4) }.to_packet();
    // A number of its own among the datapaths of other tests of this process.
    for _ in 0..29 {
        rig.assert_stolen(&packet);
    }
    let counts = rig.0.counts();
    assert_eq!((counts.copied, counts.stolen), (29, 29));
    let mut found = Running::all().expect("root sees them");
    found.retain(|it| it.counts == Some(counts));
    let [it] = &found[..] else { panic!("not one: {found:?}") };
    assert_eq!(it.process.as_ref().map(|it| it.pid), Some(std::process::id()));
    assert_eq!(it.interface, None, "it hangs nowhere");
}
