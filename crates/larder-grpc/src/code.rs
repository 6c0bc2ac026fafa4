//! The seventeen outcomes of a call, as the gRPC specification numbers and names them.

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Code {
    /// All went well.
    Ok = 0,
    /// The caller gave up.
    Cancelled = 1,
    /// Nothing better is known.
    Unknown = 2,
    /// The request is wrong whatever the state of the server.
    InvalidArgument = 3,
    /// The call took longer than its deadline allows.
    DeadlineExceeded = 4,
    /// What was asked for is not there.
    NotFound = 5,
    /// What was to be made is there already.
    AlreadyExists = 6,
    /// The caller is known and may not do this.
    PermissionDenied = 7,
    /// There is no room, quota or memory for it.
    ResourceExhausted = 8,
    /// The server is not in the state that the call needs; to repeat it is no use.
    FailedPrecondition = 9,
    /// Another call got in the way; the caller may start again from further back.
    Aborted = 10,
    /// Behind the end of what there is.
    OutOfRange = 11,
    /// The server has no such method, or not in this form.
    Unimplemented = 12,
    /// Something that must not happen did.
    Internal = 13,
    /// The server cannot serve at the moment; to repeat the call may help.
    Unavailable = 14,
    /// Bytes were lost or damaged for good.
    DataLoss = 15,
    /// The caller's credential is absent or bad.
    Unauthenticated = 16,
}

impl Code {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The number on the wire, also that of the `code` of a `google.rpc.Status`.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name in the specification, such as `NOT_FOUND`: for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::Unknown => "UNKNOWN",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::DataLoss => "DATA_LOSS",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_specification() {
        let numbers: Vec<u8> = Code::ALL.map(Code::number).to_vec();
        assert_eq!(numbers, (0..=16).collect::<Vec<u8>>());
        assert_eq!(Code::Unauthenticated.to_string(), "UNAUTHENTICATED");
    }
}
