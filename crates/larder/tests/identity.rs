//! CI jobs that show who they are: the program itself, with a real issuer over https.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod identity {
    pub(crate) mod site;

    mod bazel;
    mod doors;
    mod incident;
    mod keys;
    mod login;
    mod nx;
    mod sessions;
    mod whoami;
}
