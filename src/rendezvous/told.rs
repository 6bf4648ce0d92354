//! What one peer tells the other, sealed.

use super::{Account, NoAccount, Report, ReportError};

/// One message between peers.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// All that the other has to know to reckon the same.
    Report(Box<Report>),
    /// What was seen of an attempt that failed.
    Account(Account),
    /// Who calls is not let in.
    NotLetIn,
}

/// The peer's message is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTold {
    /// Its report.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Its account of an attempt.
    #[error(transparent)]
    Account(#[from] NoAccount),
    /// Neither.
    #[error("the peer sends what this version of tcp-punch does not understand")]
    Unknown,
}

const REPORT: u8 = 1;
const ACCOUNT: u8 = 2;
const NOT_LET_IN: u8 = 3;

impl Told {
    /// The bytes to be sealed.
    ///
    /// # Errors
    /// [`NotTold::Report`] for a report that contradicts itself or is too long.
    pub fn to_bytes(&self) -> Result<Vec<u8>, NotTold> {
        let (kind, bytes) = match self {
            Self::Report(report) => (REPORT, report.to_bytes()?),
            Self::Account(account) => (ACCOUNT, account.to_bytes()),
            Self::NotLetIn => (NOT_LET_IN, Vec::new()),
        };
        Ok([&[kind], &bytes[..]].concat())
    }

    /// A message that was opened.
    ///
    /// # Errors
    /// [`NotTold`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotTold> {
        match bytes.split_first() {
            Some((&REPORT, rest)) => Ok(Self::Report(Box::new(Report::from_bytes(rest)?))),
            Some((&ACCOUNT, rest)) => Ok(Self::Account(Account::from_bytes(rest)?)),
            Some((&NOT_LET_IN, [])) => Ok(Self::NotLetIn),
            _ => Err(NotTold::Unknown),
        }
    }
}
