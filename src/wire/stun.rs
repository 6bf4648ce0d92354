//! STUN Binding over a byte stream (RFC 8489): the request, the judgement of what comes back, and
//! a server's answer.

mod answer;

pub use answer::{Ends, NotARequest, answer, message_length};

use super::nonsense::Nonsense;
use std::net::{IpAddr, SocketAddr};
use stun_types::attribute::{
    AttributeStaticType, AttributeType, ErrorCode, MappedSocketAddr, Software, XorMappedAddress,
};
use stun_types::message::{
    BINDING, Message, MessageClass, MessageHeader, MessageType, MessageWrite, MessageWriteVec,
    StunParseError,
};

/// Larger responses are refused: a Binding response with every attribute of RFC 8489 and RFC 5780
/// and a SOFTWARE text of the most allowed, 763 bytes, stays below a kilobyte.
pub const MAX_MESSAGE: usize = 2048;

/// RFC 8489 section 14.1.
const MAPPED_ADDRESS: AttributeType = AttributeType::new(0x0001);
/// RFC 5780 section 7.3.
const RESPONSE_ORIGIN: AttributeType = AttributeType::new(0x802b);
/// RFC 5780 section 7.4.
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802c);

/// What a server writes for people is cut here.
const MAX_TEXT: usize = 80;

/// Identifies a request and its response: 96 bits, which nobody else can guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransactionId([u8; 12]);

impl TransactionId {
    /// From 96 random bits.
    pub const fn new(random: [u8; 12]) -> Self {
        Self(random)
    }

    fn of_message(id: stun_types::message::TransactionId) -> Self {
        let [_, _, _, _, id @ ..] = u128::from(id).to_be_bytes();
        Self(id)
    }
}

/// A Binding request, with nothing in it that would tell this host from others.
pub fn binding_request(id: TransactionId) -> Vec<u8> {
    let mut number = [0; 16];
    number[4..].copy_from_slice(&id.0);
    let kind = MessageType::from_class_method(MessageClass::Request, BINDING);
    let id = u128::from_be_bytes(number).into();
    Message::builder(kind, id, MessageWriteVec::new()).finish()
}

/// What a server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Where our connection comes from, as the server sees it.
    pub external: SocketAddr,
    /// The server's other address and port, to which the same question may be put.
    pub other: Option<SocketAddr>,
    /// What the server calls its own end of this connection.
    pub origin: Option<SocketAddr>,
    /// The server's name for itself.
    pub software: Option<String>,
}

/// Why what came is no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotABinding {
    /// Something else listens there.
    #[error("{0} answers there, not a STUN server")]
    OtherProtocol(&'static str),
    /// The bytes are no STUN message.
    #[error("what answers there does not speak STUN")]
    NotStun,
    /// The header announces more than a Binding response can have.
    #[error("it announces a message of {0} bytes")]
    Oversized(usize),
    /// The message contradicts itself.
    #[error("its response is malformed: {0}")]
    Malformed(StunParseError),
    /// Some other message.
    #[error("it sent {0} instead of a Binding response")]
    OtherMessage(String),
    /// A response to somebody else's question.
    #[error("its response belongs to another request")]
    ForeignTransaction,
    /// The server declined.
    #[error("it answered with error {code} {reason}")]
    Error {
        /// RFC 8489 section 14.8: 300 to 699.
        code: u16,
        /// In the server's words.
        reason: String,
    },
    /// There is no mapped address in it.
    #[error("its response has no mapped address")]
    NoAddress,
    /// The mapped address cannot be ours.
    #[error("it says that we come from {address}, which {why}")]
    Nonsense {
        /// What the server said.
        address: SocketAddr,
        /// What is wrong with it.
        why: Nonsense,
    },
}

/// Collects one response from the pieces in which a stream delivers it.
#[derive(Debug)]
pub struct Response {
    id: TransactionId,
    server: SocketAddr,
    bytes: Vec<u8>,
}

impl Response {
    /// To the request with `id`, from `server`.
    pub fn new(id: TransactionId, server: SocketAddr) -> Self {
        Self { id, server, bytes: Vec::new() }
    }

    /// How many bytes have come.
    pub fn received(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the next piece. `None`: more has to come. What follows the response is ignored.
    ///
    /// # Errors
    /// [`NotABinding`], as early as the bytes tell.
    pub fn push(&mut self, piece: &[u8]) -> Result<Option<Binding>, NotABinding> {
        // Beyond this no byte can change the verdict.
        let room = MAX_MESSAGE - self.bytes.len();
        self.bytes.extend(&piece[..piece.len().min(room)]);
        let header = match MessageHeader::from_bytes(&self.bytes) {
            Ok(header) => header,
            Err(StunParseError::Truncated { .. }) => return Ok(None),
            Err(_) => return Err(other_protocol(&self.bytes)),
        };
        let length = MessageHeader::LENGTH + usize::from(header.data_length());
        // RFC 8489 section 5: a multiple of four.
        if !length.is_multiple_of(4) {
            return Err(NotABinding::NotStun);
        }
        if length > MAX_MESSAGE {
            return Err(NotABinding::Oversized(length));
        }
        self.bytes.get(..length).map(|message| judge(message, self.id, self.server)).transpose()
    }
}

/// Judges a whole message that `server` sent on a connection where `id` was asked.
fn judge(bytes: &[u8], id: TransactionId, server: SocketAddr) -> Result<Binding, NotABinding> {
    let message = Message::from_bytes(bytes).map_err(NotABinding::Malformed)?;
    let class = message.class();
    if !class.is_response() || !message.has_method(BINDING) {
        return Err(NotABinding::OtherMessage(name(&message)));
    }
    if TransactionId::of_message(message.transaction_id()) != id {
        return Err(NotABinding::ForeignTransaction);
    }
    if class == MessageClass::Error {
        let error = message.attribute::<ErrorCode>().map_err(NotABinding::Malformed)?;
        return Err(NotABinding::Error { code: error.code(), reason: text(error.reason()) });
    }
    let plain = |kind| match message.raw_attribute(kind) {
        None => Ok(None),
        Some(raw) => MappedSocketAddr::from_raw(&raw).map(|mapped| Some(mapped.addr())),
    };
    // Some routers rewrite what looks like their outer address (RFC 8489 section 14.2): the plain
    // one counts only where a server of RFC 3489 sends no other.
    let external = match message.raw_attribute(XorMappedAddress::TYPE) {
        Some(raw) => XorMappedAddress::try_from(&raw)
            .map(|mapped| Some(mapped.addr(message.transaction_id()))),
        None => plain(MAPPED_ADDRESS),
    };
    let external = external.map_err(NotABinding::Malformed)?.ok_or(NotABinding::NoAddress)?;
    let external = canonical(external);
    match Nonsense::of(external, server) {
        Some(why) => Err(NotABinding::Nonsense { address: external, why }),
        None => Ok(Binding {
            external,
            // Attributes that need not be understood do not spoil what the others say.
            other: plain(OTHER_ADDRESS)
                .ok()
                .flatten()
                .map(canonical)
                .filter(|other| Nonsense::of(*other, server).is_none()),
            origin: plain(RESPONSE_ORIGIN).ok().flatten().map(canonical),
            software: message
                .attribute::<Software>()
                .ok()
                .map(|software| text(software.software())),
        }),
    }
}

fn name(message: &Message<'_>) -> String {
    let class = match message.class() {
        MessageClass::Request => "request",
        MessageClass::Indication => "indication",
        MessageClass::Success | MessageClass::Error => "response",
    };
    format!("a {class} of method {:#05x}", message.method().value())
}

/// A server that listens for both IP versions with one socket may call an IPv4 address IPv4-mapped.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Text from the network: one short line without control characters.
fn text(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { '?' } else { c }).take(MAX_TEXT).collect()
}

/// Names what begins like this.
fn other_protocol(bytes: &[u8]) -> NotABinding {
    let beginnings: [(&[u8], &str); 5] = [
        (b"HTTP/", "an HTTP server"),
        (b"SSH-", "an SSH server"),
        (b"220", "a mail or FTP server"),
        // RFC 8446 section 5.1: an alert, version 3.x.
        (&[21, 3], "a TLS server"),
        (b"<", "a web server"),
    ];
    let named = beginnings.iter().find(|(beginning, _)| bytes.starts_with(beginning));
    named.map_or(NotABinding::NotStun, |(_, name)| NotABinding::OtherProtocol(name))
}

#[cfg(test)]
mod tests;
