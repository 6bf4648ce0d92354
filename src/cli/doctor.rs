//! todo
use super::Failure;
/// todo
pub fn run(_json: bool) -> Result<u8, Failure> {
    Ok(0)
}
