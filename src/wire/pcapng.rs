//! Packets written as pcapng, readable by tshark and Wireshark.

use super::WallTime;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::{DataLink, PcapError};
use std::borrow::Cow;
use std::io::{self, Write};

/// Writes IP packets (link type RAW) with nanosecond timestamps and their direction.
pub struct PacketLog<W: Write> {
    writer: PcapNgWriter<W>,
}

impl<W: Write> PacketLog<W> {
    /// Writes the file's header: one interface of this name.
    ///
    /// # Errors
    /// The writer's own.
    pub fn new(writer: W, interface: &str) -> io::Result<Self> {
        let mut writer = PcapNgWriter::new(writer).map_err(io_error)?;
        writer
            .write_pcapng_block(InterfaceDescriptionBlock {
                linktype: DataLink::RAW,
                snaplen: 0,
                options: vec![
                    InterfaceDescriptionOption::IfName(Cow::Borrowed(interface)),
                    InterfaceDescriptionOption::IfTsResol(9), // 10^-9 s
                ],
            })
            .map_err(io_error)?;
        Ok(Self { writer })
    }

    /// Writes out what the writer holds back.
    ///
    /// # Errors
    /// The writer's own.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }

    /// Writes one packet that starts at its IP header.
    ///
    /// # Errors
    /// The writer's own.
    pub fn write(&mut self, at: WallTime, outbound: bool, packet: &[u8]) -> io::Result<()> {
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: at.since_epoch(),
            original_len: u32::try_from(packet.len()).unwrap_or(u32::MAX),
            data: Cow::Borrowed(packet),
            // pcapng section 4.3.1, flags word: 1 inbound, 2 outbound.
            options: vec![EnhancedPacketOption::Flags(if outbound { 2 } else { 1 })],
        };
        self.writer.write_pcapng_block(block).map_err(io_error)?;
        Ok(())
    }
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn a_packet_reads_back_with_its_nanosecond_and_direction() {
        let mut file = Vec::new();
        let at = WallTime::from_unix_ns(1_763_700_000_123_456_789);
        PacketLog::new(&mut file, "eth0").unwrap().write(at, true, &[0x45, 0, 0, 1]).unwrap();
        let mut reader = PcapNgReader::new(file.as_slice()).unwrap();
        let mut packets = 0;
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap() {
                assert_eq!(packet.timestamp, at.since_epoch());
                assert_eq!(packet.data.as_ref(), [0x45, 0, 0, 1]);
                assert_eq!(packet.options, [EnhancedPacketOption::Flags(2)]);
                packets += 1;
            }
        }
        assert_eq!(packets, 1);
    }
}
