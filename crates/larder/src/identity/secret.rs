//! A text that is shown to nobody by accident.

/// A token or an identity token. It has no `Debug` and no `Display`; what is dropped is not overwritten.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    /// The text without white space around it, if that leaves one that can stand in a header.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let text = text.trim();
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        plain.then(|| Self(text.to_owned()))
    }

    /// The text, for whom it is meant.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether it has the shape of a JWT.
    pub(crate) fn is_jwt(&self) -> bool {
        self.0.split('.').count() == 3
    }
}
