//! What the client needs to believe a server, and to be believed.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::client::ClientOptions;
use crate::error::OptionsError;

/// What the connector of a client needs for TLS, without the protocols to negotiate, which it adds itself.
pub fn configuration(options: &ClientOptions) -> Result<ClientConfig, OptionsError> {
    // The cryptography is named here: which one is the process's default is nobody's business but the program's.
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs supports the default versions of TLS")
        .with_root_certificates(roots(options)?);
    let Some(pem) = &options.identity_pem else {
        return Ok(builder.with_no_client_auth());
    };
    let wrong = |error: &dyn ToString| OptionsError::Identity(error.to_string());
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(&error))?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| wrong(&error))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|error| wrong(&error))
}

fn roots(options: &ClientOptions) -> Result<RootCertStore, OptionsError> {
    let mut roots = RootCertStore::empty();
    if options.system_roots {
        // A system without any, or with some that cannot be read, is one where a server's issuer is unknown: the
        // connection says so if it matters.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    for pem in &options.extra_roots_pem {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            certificate
                .map_err(|error| error.to_string())
                .and_then(|found| roots.add(found).map_err(|error| error.to_string()))
                .map_err(OptionsError::Roots)?;
        }
        if roots.len() == before {
            return Err(OptionsError::Roots("there is none".to_owned()));
        }
    }
    Ok(roots)
}
