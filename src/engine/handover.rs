//! From an established TCB to a kernel socket, without losing a byte that came meanwhile.

use crate::punch::{EarlyData, EstablishedTcb, tsval};
use crate::sys::{CallFailed, Capture, RepairSocket, clock};
use crate::wire::{Segment, Seq};
use std::os::fd::OwnedFd;

/// A connection in the kernel's hands.
pub(super) struct Installed {
    pub(super) fd: OwnedFd,
    /// What the kernel expects next.
    pub(super) rcv_nxt: Seq,
    /// The segment with which the peer had finished by then.
    pub(super) early_fin: Option<Segment>,
}

/// Looks into the capture. A peer's first flight is ten segments, so more than these are rare, and
/// past them the peer's own repetition heals it.
const LOOKS: u32 = 32;

/// Installs the connection. Every segment that came in since the handshake, its last one
/// included, is in `early` or still in the capture.
///
/// While the socket's filter stands the kernel hears nothing, so what the capture has is exactly
/// what the kernel lacks. What slips in between looking and lifting the filter is found by looking
/// again afterwards.
pub(super) fn install(
    socket: RepairSocket,
    tcb: &EstablishedTcb,
    early: &mut EarlyData,
    capture: &mut Capture,
    mut seen: impl FnMut(&Segment, &[u8], crate::wire::WallTime),
) -> Result<Installed, CallFailed> {
    socket.establish(tcb, tsval(clock::now()))?;
    let mut fin = None;
    let mut drain = |early: &mut EarlyData| -> Result<bool, CallFailed> {
        let mut any = false;
        while let Some(captured) = capture.receive()? {
            if let Ok(segment) = Segment::parse(captured.packet)
                && segment.tuple == tcb.tuple.reversed()
            {
                seen(&segment, captured.packet, captured.at);
                early.receive(&segment);
                any = true;
                if segment.fin {
                    fin = Some(segment);
                }
            }
        }
        Ok(any)
    };
    let (mut hushed, mut pending) = (true, true);
    for _ in 0..LOOKS {
        if drain(early)? || pending {
            socket.push(&early.contiguous_from(socket.rcv_nxt()?))?;
            pending = false;
            continue;
        }
        // Right behind a look that found nothing, so that next to nothing slips in between.
        socket.listen_in()?;
        hushed = false;
        drain(early)?;
        if early.contiguous_from(socket.rcv_nxt()?).is_empty() {
            break;
        }
        tracing::debug!("segments came in while the filter was lifted; once more");
        socket.hush()?;
        (hushed, pending) = (true, true);
    }
    if hushed {
        socket.listen_in()?;
    }
    let rcv_nxt = socket.rcv_nxt()?;
    let early_fin = fin.filter(|_| early.is_finished_at(rcv_nxt)).map(|segment| Segment {
        seq: rcv_nxt,
        payload: Vec::new(),
        ..segment
    });
    Ok(Installed { fd: socket.finish(tcb.agreed.sack)?, rcv_nxt, early_fin })
}
