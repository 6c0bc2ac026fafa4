//! Paths that a client will write to, as the most gullible client would take them.
//!
//! Outputs are unpacked on every system, so a path is bad if it is bad on one of them: both slashes separate, a drive letter
//! makes a path absolute, and `.. ` with blanks is `..`. Only the text is looked at. What else lies in the place where a client
//! unpacks, and how its file system compares names, is not known here.

/// What makes a path one that nothing may be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadPath {
    #[error("is empty")]
    Empty,
    #[error("is absolute")]
    Absolute,
    #[error("has `..` in it")]
    Parent,
    #[error("has a NUL in it")]
    Nul,
}

/// What makes a symbolic link one that nobody may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTarget {
    #[error("leads nowhere")]
    Empty,
    #[error("leads to an absolute path")]
    Absolute,
    #[error("leads out of the outputs")]
    Outside,
    #[error("has a NUL in its target")]
    Nul,
}

/// Whether the path stays below the directory it is relative to. One of no components is that directory.
pub(crate) fn check_path(path: &[u8]) -> Result<(), BadPath> {
    if path.is_empty() {
        return Err(BadPath::Empty);
    }
    if path.contains(&0) {
        return Err(BadPath::Nul);
    }
    if is_absolute(path) {
        return Err(BadPath::Absolute);
    }
    if components(path).any(is_parent) {
        return Err(BadPath::Parent);
    }
    Ok(())
}

/// Whether a symbolic link at `link`, a path that has passed [`check_path`], leads to something below the directory that `link`
/// is relative to. `..` is taken to undo the component before it, which is so unless that is a link itself.
pub(crate) fn check_target(link: &[u8], target: &[u8]) -> Result<(), BadTarget> {
    if target.is_empty() {
        return Err(BadTarget::Empty);
    }
    if target.contains(&0) {
        return Err(BadTarget::Nul);
    }
    if is_absolute(target) {
        return Err(BadTarget::Absolute);
    }
    let mut depth = components(link).count().saturating_sub(1);
    for component in components(target) {
        depth = if is_parent(component) {
            depth.checked_sub(1).ok_or(BadTarget::Outside)?
        } else {
            depth + 1
        };
    }
    Ok(())
}

/// The components of a path, without those that say nothing.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| matches!(byte, b'/' | b'\\'))
        .filter(|component| !matches!(*component, b"" | b"."))
}

/// Whether the component is `..`, also to systems that drop blanks at its end.
pub(crate) fn is_parent(component: &[u8]) -> bool {
    component.trim_ascii_end() == b".."
}

fn is_absolute(path: &[u8]) -> bool {
    matches!(path, [b'/' | b'\\', ..])
        || matches!(path, [drive, b':', ..] if drive.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_must_stay_below_where_it_begins() {
        for good in [
            "a", "a/b", "./a", "a//b", "...", "a..b", "..a/b", "a\\b", "é/ü", ".",
        ] {
            assert_eq!(check_path(good.as_bytes()), Ok(()), "{good:?}");
        }
        for (bad, why) in [
            ("", BadPath::Empty),
            ("/", BadPath::Absolute),
            ("/etc/passwd", BadPath::Absolute),
            ("\\\\host\\share", BadPath::Absolute),
            ("C:\\x", BadPath::Absolute),
            ("c:x", BadPath::Absolute),
            ("..", BadPath::Parent),
            ("../x", BadPath::Parent),
            ("a/../b", BadPath::Parent),
            ("a\\..\\..\\b", BadPath::Parent),
            ("a/..", BadPath::Parent),
            ("a/.. /b", BadPath::Parent),
            ("a\0b", BadPath::Nul),
        ] {
            assert_eq!(check_path(bad.as_bytes()), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_link_must_lead_below_where_its_path_begins() {
        for (link, target) in [
            ("dist/main.js", "index.js"),
            ("node_modules/.bin/tsc", "../typescript/bin/tsc"),
            ("a/b/c", "../../d"),
            ("a/b/c", "../.."),
            ("a", "."),
            ("./a/b", "../x"),
        ] {
            assert_eq!(check_target(link.as_bytes(), target.as_bytes()), Ok(()));
        }
        for (link, target, why) in [
            ("a", "", BadTarget::Empty),
            ("a", "/etc", BadTarget::Absolute),
            ("a", "C:/x", BadTarget::Absolute),
            ("a", "..", BadTarget::Outside),
            ("a/b", "../../x", BadTarget::Outside),
            ("a/b", "..\\..\\x", BadTarget::Outside),
            ("a", "b/../../c/d", BadTarget::Outside),
            ("a", "b\0c", BadTarget::Nul),
        ] {
            let found = check_target(link.as_bytes(), target.as_bytes());
            assert_eq!(found, Err(why), "{link:?} -> {target:?}");
        }
    }
}
