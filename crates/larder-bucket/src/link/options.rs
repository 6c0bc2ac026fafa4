//! How a bucket is reached: endpoint, region, encryption; and the environment that credentials come from.
//!
//! Credentials are never options. They are looked for where the clouds' own tools look: in the environment, in the files that it
//! names, and at the machine's or the pod's own identity. Which variables those are is in `docs/bucket.md`; they are `object_store`'s.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{ObjectStore, RetryConfig};

use super::address::BucketUrl;
use super::folder::Folder;
use super::transport::Transport;

/// Where the bucket's name stands in the requests to S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `https://endpoint/bucket/…`
    Path,
    /// `https://bucket.endpoint/…`
    VirtualHost,
}

/// With what S3 encrypts objects; without it the bucket's own default holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encryption {
    /// Keys of S3's own (`AES256`).
    S3,
    /// A key of the key management (`aws:kms`).
    Kms {
        /// The key's id, ARN or alias.
        key: String,
    },
}

/// How a bucket is reached. What is not for its kind is an error.
#[derive(Clone, Default)]
pub struct BucketOptions {
    /// S3, Google, Azure: where requests go, if not to the cloud itself: `https://host` or `http://host:port`. For Azure it may
    /// have a path (`http://127.0.0.1:10000/account`).
    pub endpoint: Option<String>,
    /// S3. Unless given: `Path` at an endpoint of one's own and for names with dots, else `VirtualHost`.
    pub addressing: Option<Addressing>,
    /// S3: such as `eu-central-1`. Unless given: `AWS_REGION`, `AWS_DEFAULT_REGION` or `us-east-1`.
    pub region: Option<String>,
    /// Azure: the storage account. Unless given: `AZURE_STORAGE_ACCOUNT_NAME`.
    pub account: Option<String>,
    /// S3.
    pub encryption: Option<Encryption>,
    /// Certificate authorities to trust beside the system's, each text one or more PEM certificates.
    pub extra_roots_pem: Vec<Vec<u8>>,
    /// The environment: names and values.
    pub environment: Vec<(String, String)>,
}

impl fmt::Debug for BucketOptions {
    /// Without the environment, which has secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketOptions")
            .field("endpoint", &self.endpoint)
            .field("addressing", &self.addressing)
            .field("region", &self.region)
            .field("account", &self.account)
            .field("encryption", &self.encryption)
            .field("extra_roots_pem", &self.extra_roots_pem.len())
            .finish_non_exhaustive()
    }
}

/// Why there is no connection to a bucket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// An option that means nothing for this bucket.
    #[error("{option} is not for {scheme}:// buckets")]
    NotForThis {
        /// The option's name.
        option: &'static str,
        /// The kind of bucket.
        scheme: &'static str,
    },
    /// The endpoint is no URL that can be asked. It is not repeated: it may have a password in it.
    #[error(
        "the endpoint must be http:// or https:// with a host, and without a user's name or a question mark"
    )]
    Endpoint,
    /// The authorities to trust are none.
    #[error(transparent)]
    Roots(#[from] larder_client::OptionsError),
    /// `object_store` has an objection.
    #[error("{0}")]
    Store(String),
}

impl BucketOptions {
    /// The store at this address.
    pub(crate) fn connect(&self, url: &BucketUrl) -> Result<Arc<dyn ObjectStore>, OpenError> {
        self.check(url)?;
        let transport = || Transport::new(&self.extra_roots_pem);
        let store: object_store::Result<Arc<dyn ObjectStore>> = match url {
            BucketUrl::S3 { bucket, .. } => self
                .s3(bucket)
                .with_http_connector(transport()?)
                .build()
                .map(|store| Arc::new(store) as _),
            BucketUrl::Gcs { bucket, .. } => self
                .gcs(bucket)
                .with_http_connector(transport()?)
                .build()
                .map(|store| Arc::new(store) as _),
            BucketUrl::Azure { container, .. } => self
                .azure(container)
                .with_http_connector(transport()?)
                .build()
                .map(|store| Arc::new(store) as _),
            BucketUrl::Folder { path } => Ok(Arc::new(Folder::new(path))),
        };
        store.map_err(|error| OpenError::Store(error.to_string()))
    }

    fn check(&self, url: &BucketUrl) -> Result<(), OpenError> {
        let (scheme, fits): (_, fn(&str) -> bool) = match url {
            BucketUrl::S3 { .. } => ("s3", |option| option != "account"),
            BucketUrl::Gcs { .. } => ("gs", |option| option == "endpoint"),
            BucketUrl::Azure { .. } => ("az", |option| matches!(option, "endpoint" | "account")),
            BucketUrl::Folder { .. } => ("file", |_| false),
        };
        let given = [
            ("endpoint", self.endpoint.is_some()),
            ("addressing", self.addressing.is_some()),
            ("region", self.region.is_some()),
            ("account", self.account.is_some()),
            ("encryption", self.encryption.is_some()),
        ];
        for (option, is_given) in given {
            if is_given && !fits(option) {
                return Err(OpenError::NotForThis { option, scheme });
            }
        }
        match &self.endpoint {
            Some(endpoint) if !is_endpoint(endpoint) => Err(OpenError::Endpoint),
            _ => Ok(()),
        }
    }

    fn s3(&self, bucket: &str) -> AmazonS3Builder {
        let mut builder = AmazonS3Builder::new();
        let mut endpoint = self.endpoint.clone();
        for (key, value) in self.variables("AWS_") {
            match key.parse() {
                Ok(AmazonS3ConfigKey::Bucket) | Err(_) => {}
                Ok(AmazonS3ConfigKey::Endpoint | AmazonS3ConfigKey::S3Endpoint) => {
                    endpoint = endpoint.or_else(|| Some(value.to_owned()));
                }
                Ok(key) => builder = builder.with_config(key, value),
            }
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        match &self.encryption {
            None => {}
            Some(Encryption::Kms { key }) => builder = builder.with_sse_kms_encryption(key),
            Some(Encryption::S3) => {
                let key: AmazonS3ConfigKey = "aws_server_side_encryption"
                    .parse()
                    .expect("this is a key of object_store's");
                builder = builder.with_config(key, "AES256");
            }
        }
        let addressing = self.addressing.unwrap_or_else(|| {
            // No certificate is for two labels before the endpoint's.
            if endpoint.is_some() || bucket.contains('.') {
                Addressing::Path
            } else {
                Addressing::VirtualHost
            }
        });
        // TLS and the index's own hashes say what arrived; a SHA-256 of every upload would cost more than all else here.
        let is_tls = endpoint
            .as_ref()
            .is_none_or(|endpoint| endpoint.starts_with("https://"));
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(at_endpoint(&endpoint, bucket, addressing));
        }
        builder
            .with_bucket_name(bucket)
            .with_virtual_hosted_style_request(addressing == Addressing::VirtualHost)
            .with_unsigned_payload(is_tls)
            .with_allow_http(true)
            .with_retry(no_retries())
    }

    fn gcs(&self, bucket: &str) -> GoogleCloudStorageBuilder {
        let mut builder = GoogleCloudStorageBuilder::new();
        if let Some((_, path)) = self
            .environment
            .iter()
            .find(|(name, _)| name == "SERVICE_ACCOUNT")
        {
            builder = builder.with_service_account_path(path);
        }
        for (key, value) in self.variables("GOOGLE_") {
            match key.parse() {
                Ok(GoogleConfigKey::Bucket) | Err(_) => {}
                Ok(key) => builder = builder.with_config(key, value),
            }
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        }
        builder.with_bucket_name(bucket).with_retry(no_retries())
    }

    fn azure(&self, container: &str) -> MicrosoftAzureBuilder {
        let mut builder = MicrosoftAzureBuilder::new();
        for (key, value) in self.variables("AZURE_") {
            match key.parse() {
                // The emulator is an endpoint like another one, and can then be at any port.
                Ok(AzureConfigKey::ContainerName | AzureConfigKey::UseEmulator) | Err(_) => {}
                Ok(key) => builder = builder.with_config(key, value),
            }
        }
        for (name, value) in &self.environment {
            // Of App Service and Container Apps, which object_store's own key does not begin with AZURE_ either.
            if name == "IDENTITY_ENDPOINT" {
                builder = builder.with_msi_endpoint(value);
            }
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        if let Some(account) = &self.account {
            builder = builder.with_account(account);
        }
        builder
            .with_container_name(container)
            .with_allow_http(true)
            .with_retry(no_retries())
    }

    fn variables(&self, prefix: &str) -> impl Iterator<Item = (String, &str)> {
        self.environment
            .iter()
            .filter(move |(name, _)| name.starts_with(prefix))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }
}

/// The breaker must see what happens, and what is worth another try is tried again where it is counted.
fn no_retries() -> RetryConfig {
    RetryConfig {
        max_retries: 0,
        retry_timeout: Duration::ZERO,
        ..RetryConfig::default()
    }
}

fn is_endpoint(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else {
        return false;
    };
    let has_host = uri
        .authority()
        .is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
    matches!(uri.scheme_str(), Some("http" | "https")) && has_host && uri.query().is_none()
}

/// The endpoint as `object_store` wants it: with the bucket in it if that is a virtual host.
fn at_endpoint(endpoint: &str, bucket: &str, addressing: Addressing) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match (addressing, endpoint.split_once("://")) {
        (Addressing::VirtualHost, Some((scheme, host))) => format!("{scheme}://{bucket}.{host}"),
        _ => endpoint.to_owned(),
    }
}
