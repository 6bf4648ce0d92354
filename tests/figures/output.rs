//! Files that a run leaves.

use std::error::Error;
use std::fs;
use std::path::Path;

/// Under sudo the file belongs to the user who called, as everything else in the checkout.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    let id = |name| std::env::var(name).ok().and_then(|id| id.parse().ok());
    if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
        std::os::unix::fs::chown(path, Some(user), Some(group))?;
    }
    Ok(())
}
