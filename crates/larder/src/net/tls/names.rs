//! What a certificate says of its owner.

use std::net::IpAddr;

use larder_auth::{CertificateNames, San};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The Unix time after which `certificate` is no longer valid.
pub(super) fn expires_at_secs(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

/// The names in a certificate that has been verified; `None` if it cannot be read after all.
///
/// A name that is not visible ASCII is left out: what an authority may put into one is a wide field, and no rule could be
/// written for it. Common names map to nothing.
pub(in crate::net) fn names(certificate: &CertificateDer<'_>) -> Option<CertificateNames> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let not_after_secs = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    // Two such extensions are an error, and then no name counts.
    let extension = parsed.subject_alternative_name().ok().flatten();
    let names = extension
        .iter()
        .flat_map(|found| &found.value.general_names);
    Some(CertificateNames {
        subject_alternative_names: names.filter_map(alternative_name).collect(),
        not_after_ms: not_after_secs.saturating_mul(1000),
    })
}

fn alternative_name(name: &GeneralName<'_>) -> Option<San> {
    match name {
        GeneralName::DNSName(name) => visible(name).map(|name| San::dns(&name)),
        GeneralName::URI(name) => visible(name).map(San::Uri),
        GeneralName::RFC822Name(name) => visible(name).map(San::Email),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let sixteen = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            four.or_else(|_| sixteen()).ok().map(San::Ip)
        }
        _ => None,
    }
}

fn visible(name: &str) -> Option<String> {
    let graphic = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    graphic.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use larder_testkit::tls::{Authority, Name, der};

    use super::*;

    fn names_of(common_name: &str, given: &[Name]) -> CertificateNames {
        let authority = Authority::create().unwrap();
        let identity = authority.client(common_name, given).unwrap();
        names(&der(&identity.certificate).unwrap().into()).unwrap()
    }

    #[test]
    fn every_kind_of_name_is_read() {
        let given = [
            Name::Dns("Job.Acme.test".to_owned()),
            Name::Uri("spiffe://acme/CI".to_owned()),
            Name::Email("ci@acme.test".to_owned()),
            Name::Ip("192.0.2.7".parse().unwrap()),
            Name::Ip("2001:db8::7".parse().unwrap()),
        ];
        let found = names_of("trunk", &given);
        let expected = [
            San::Dns("job.acme.test".to_owned()),
            San::Uri("spiffe://acme/CI".to_owned()),
            San::Email("ci@acme.test".to_owned()),
            San::Ip("192.0.2.7".parse().unwrap()),
            San::Ip("2001:db8::7".parse().unwrap()),
        ];
        assert_eq!(found.subject_alternative_names, expected);
        assert!(found.not_after_ms > crate::clock::now_ms());
    }

    #[test]
    fn names_that_could_forge_a_line_of_the_log_are_left_out() {
        let given = [
            Name::Uri("spiffe://acme/ci\nerror".to_owned()),
            Name::Email("ci @acme.test".to_owned()),
        ];
        let found = names_of("trunk", &given);
        assert_eq!(found.subject_alternative_names, []);
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert_eq!(names(&b"nothing".to_vec().into()), None);
        assert_eq!(expires_at_secs(&Vec::new().into()), None);
    }
}
