//! The datapaths that are loaded on this host now, whoever's they are.

use super::super::call::{CallFailed, Named};
use super::counts::{Counts, MAP};
use aya::maps::{Map, MapData, MapError, MapInfo, MapType, PerCpuArray, loaded_maps};
use aya::programs::loaded_programs;
use nix::errno::Errno;
use serde::Serialize;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// A datapath that is loaded now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Whose it is, if the process can be seen from here.
    pub process: Option<Process>,
    /// Where its programs hang, if links tell.
    pub interface: Option<Interface>,
    /// What it has done so far; none if another version counts otherwise.
    pub counts: Option<Counts>,
}

/// A process that has a datapath.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// What it is called.
    pub name: String,
}

/// An interface, perhaps of another network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its number there.
    pub index: u32,
    /// What it is called, if it is of this network namespace.
    pub name: Option<String>,
}

impl Running {
    /// All datapaths of this host, those of other containers too.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN on the host itself: the kernel lists its maps to nobody else.
    pub fn all() -> Result<Vec<Self>, CallFailed> {
        let mut all = Vec::new();
        for map in loaded_maps() {
            match map.and_then(|map| Self::of(&map)) {
                Ok(running) => all.extend(running),
                // It went while it was looked at.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error).named("bpf(BPF_MAP_GET_NEXT_ID)"),
            }
        }
        Ok(all)
    }

    /// The datapath whose counters this map has, if they are a datapath's.
    fn of(map: &MapInfo) -> Result<Option<Self>, MapError> {
        if map.name_as_str() != Some(MAP) || map.map_type()? != MapType::PerCpuArray {
            return Ok(None);
        }
        let programs = programs_with(map.id());
        // A map outlives its programs for a moment.
        if programs.is_empty() {
            return Ok(None);
        }
        let counts = if map.max_entries() == Counts::COUNT {
            let data = MapData::from_id(map.id())?;
            PerCpuArray::try_from(Map::PerCpuArray(data)).ok().map(|map| Counts::of(&map))
        } else {
            None
        };
        let holder = Holder::of(map.id(), &programs);
        Ok(Some(Self {
            process: holder.as_ref().and_then(Holder::process),
            interface: holder.as_ref().and_then(|it| it.interface(&programs)),
            counts,
        }))
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some(Process { pid, name }) => write!(f, "process {pid} ({name})")?,
            None => f.write_str("no process that is seen from here")?,
        }
        match &self.interface {
            Some(Interface { name: Some(name), .. }) => write!(f, " at {name}")?,
            Some(Interface { index, name: None }) => {
                write!(f, " at interface {index} of another network namespace")?;
            }
            None => {}
        }
        match &self.counts {
            Some(counts) => write!(f, ": {counts}"),
            None => f.write_str(": another version, whose counters are not known"),
        }
    }
}

fn is_gone(error: &MapError) -> bool {
    let MapError::SyscallError(call) = error else { return false };
    call.io_error.raw_os_error() == Some(Errno::ENOENT as i32)
}

/// Programs that use this map.
fn programs_with(map: u32) -> Vec<u32> {
    let uses = |maps: Option<Vec<u32>>| maps.is_some_and(|maps| maps.contains(&map));
    let programs = loaded_programs().flatten();
    programs.filter(|it| it.map_ids().is_ok_and(uses)).map(|it| it.id()).collect()
}

/// What the kernel says of a descriptor in /proc/PID/fdinfo.
#[derive(Debug, Default, PartialEq, Eq)]
struct Descriptor {
    map: Option<u32>,
    program: Option<u32>,
    interface: Option<u32>,
}

impl Descriptor {
    fn read(text: &str) -> Self {
        let number = |wanted: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once(":\t"));
            fields.find(|(name, _)| *name == wanted).and_then(|(_, value)| value.parse().ok())
        };
        Self { map: number("map_id"), program: number("prog_id"), interface: number("ifindex") }
    }

    fn is_of(&self, programs: &[u32]) -> bool {
        self.program.is_some_and(|id| programs.contains(&id))
    }
}

/// A process's directory in /proc, and its descriptors.
struct Holder {
    directory: PathBuf,
    descriptors: Vec<Descriptor>,
}

impl Holder {
    /// The process that has this map and one of its programs open: who only looks has the map.
    fn of(map: u32, programs: &[u32]) -> Option<Self> {
        let numbered = |path: &PathBuf| pid(path).is_some();
        let mut processes = entries(Path::new("/proc")).filter(numbered).map(|directory| {
            let texts = entries(&directory.join("fdinfo")).flat_map(fs::read_to_string);
            let descriptors = texts.map(|text| Descriptor::read(&text)).collect();
            Self { directory, descriptors }
        });
        processes.find(|it| {
            it.descriptors.iter().any(|descriptor| descriptor.map == Some(map))
                && it.descriptors.iter().any(|descriptor| descriptor.is_of(programs))
        })
    }

    fn process(&self) -> Option<Process> {
        let name = fs::read_to_string(self.directory.join("comm")).ok()?;
        Some(Process { pid: pid(&self.directory)?, name: name.trim_end().to_owned() })
    }

    /// Where one of these programs hangs, by a link of this process.
    fn interface(&self, programs: &[u32]) -> Option<Interface> {
        let ours = self.descriptors.iter().filter(|it| it.is_of(programs));
        let mut links = ours.filter_map(|it| it.interface);
        // Zero once the interface is gone.
        let index = links.find(|index| *index != 0)?;
        let namespace = |of: &Path| fs::read_link(of.join("ns/net")).ok();
        let here = namespace(Path::new("/proc/thread-self"));
        let near = here.is_some() && here == namespace(&self.directory);
        let name = near.then(|| super::hook::name(index).ok()).flatten();
        Some(Interface { index, name })
    }
}

fn pid(directory: &Path) -> Option<u32> {
    directory.file_name()?.to_str()?.parse().ok()
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_maps_and_links_are_told_apart() {
        let map = "pos:\t0\nflags:\t02000002\nmnt_id:\t15\nino:\t1047\nmap_type:\t6\nkey_size:\t4\n\
                   value_size:\t8\nmax_entries:\t15\nmemlock:\t1928\nmap_id:\t512\nfrozen:\t0\n";
        assert_eq!(Descriptor::read(map), Descriptor { map: Some(512), ..Descriptor::default() });
        let link = "pos:\t0\nflags:\t02000002\nlink_type:\ttcx\nlink_id:\t7\nprog_tag:\t1f\n\
                    prog_id:\t90\nifindex:\t3\nattach_type:\t46 (tcx_ingress)\n";
        let expected = Descriptor { map: None, program: Some(90), interface: Some(3) };
        assert_eq!(Descriptor::read(link), expected);
        let file = "pos:\t0\nflags:\t0100002\nmnt_id:\t26\nino:\t4\n";
        assert_eq!(Descriptor::read(file), Descriptor::default());
        assert_eq!(Descriptor::read("map_id:\tmany\nifindex: 3"), Descriptor::default());
    }

    #[test]
    fn who_where_and_what_stand_in_one_line() {
        let mut running = Running {
            process: Some(Process { pid: 4711, name: "tcp-punch".into() }),
            interface: Some(Interface { index: 2, name: Some("eth0".into()) }),
            counts: Some(Counts { copied: 3, resets_held_back: 1, ..Counts::default() }),
        };
        let said = "process 4711 (tcp-punch) at eth0: copied 3, resets held back 1";
        assert_eq!(running.to_string(), said);
        running.interface = Some(Interface { index: 2, name: None });
        running.counts = None;
        assert_eq!(
            running.to_string(),
            "process 4711 (tcp-punch) at interface 2 of another network namespace: another \
             version, whose counters are not known"
        );
        running = Running { process: None, interface: None, counts: Some(Counts::default()) };
        assert_eq!(running.to_string(), "no process that is seen from here: nothing yet");
    }
}
