use std::ffi::OsString;

use larder_bucket::link::{Addressing, Encryption};
use larder_cache::Ack;

use super::*;

fn read(toml: &str, environment: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
    let mut raw = RawConfig::default();
    let mut problems = Problems::default();
    raw.read_file(Path::new("/etc/larder/larder.toml"), toml, &mut problems);
    let variables = environment
        .iter()
        .map(|(k, v)| (OsString::from(k), OsString::from(v)));
    raw.read_environment(variables, &mut problems);
    resolve(&raw, problems).map_err(|problems| {
        problems
            .as_slice()
            .iter()
            .map(ToString::to_string)
            .collect()
    })
}

fn check_faults(toml: &str, environment: &[(&str, &str)], expected: &[&str]) {
    let faults = read(toml, environment).expect_err("the configuration is bad");
    let faults: Vec<String> = faults
        .iter()
        .map(|fault| fault.replace("/etc/larder/larder.toml", "F"))
        .collect();
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(
            fault.contains(expected),
            "{fault:?} should contain {expected:?}"
        );
    }
}

#[test]
fn an_empty_file_is_a_working_configuration() {
    let settings = read("", &[]).unwrap();
    assert_eq!(settings.http.listen, "127.0.0.1:9092".parse().ok());
    assert_eq!(settings.tls, None);
    assert_eq!(settings.store.data_dir, Path::new("larder-data"));
    assert_eq!(settings.limits.entry_size_max, 2 << 30);
    assert_eq!(settings.store.durability, Durability::Written);
}

#[test]
fn every_key_can_be_set_in_the_file() {
    let toml = r#"
[http]
listen = "0.0.0.0:80"
base_path = "/cache/"
insecure_http = true
metrics = "open"
trusted_proxies = ["10.0.0.0/8"]
[tls]
listen = "0.0.0.0:443"
certificate = "tls/c.pem"
key = "tls/k.pem"
client_ca = "tls/ca.pem"
client_certificates = "required"
client_crl = "tls/crl.pem"
[store]
data_dir = "data"
trusted = "20%"
untrusted = "10GiB"
durability = "synced"
lease = "2h"
free_reserve = "5%"
[bucket]
url = "s3://builds/larder"
ack = "bucket"
expire_after = "60d"
endpoint = "https://s3.example:9000"
addressing = "virtual-host"
region = "eu-central-1"
account = "of-azure"
encryption = "kms:alias/larder"
ca_file = "tls/s3.pem"
[limits]
entry_size_max = "1GiB"
connections_max = 100
header_timeout = "5s"
header_size_max = "16KiB"
idle_timeout = "3m"
stall_timeout = "20s"
drain_timeout = "1s"
[nx]
inspect = "untrusted"
[log]
format = "json"
level = "debug"
[identity]
audience = "https://c.example"
session_ttl_trusted = "1h"
session_ttl_untrusted = "12h"
[audit]
retention = "30d"
rows = 1000
writers = "60d"
[workspace.acme]
public = true
trusted = "1GiB"
untrusted = "64MiB"
entry_size_max = "10MiB"
"#;
    let keys_in_file = toml.lines().filter(|line| line.contains(" = ")).count();
    // Tables with names of their own have keys that exclude each other; they have tests of their own.
    let elsewhere = ["issuer", "workspace.ci", "workspace.certificate"];
    let here = |key: &&Key| !elsewhere.contains(&key.spec().section);
    assert_eq!(
        keys_in_file,
        Key::ALL.iter().filter(here).count(),
        "this test sets every key there is"
    );
    let settings = read(toml, &[]).unwrap();
    assert_eq!(settings.http.base_path, "/cache");
    assert_eq!(settings.http.metrics, MetricsAudience::Open);
    assert_eq!(settings.store.data_dir, Path::new("/etc/larder/data"));
    assert_eq!(settings.store.trusted, Some(Share::Percent(20)));
    assert_eq!(settings.store.lease, Duration::from_hours(2));
    let bucket = settings.bucket.unwrap();
    assert_eq!(bucket.url.to_string(), "s3://builds/larder");
    assert_eq!(bucket.ack, Ack::Bucket);
    assert_eq!(bucket.expire_after, Duration::from_hours(60 * 24));
    assert_eq!(bucket.addressing, Some(Addressing::VirtualHost));
    let key = "alias/larder".to_owned();
    assert_eq!(bucket.encryption, Some(Encryption::Kms { key }));
    assert_eq!(
        bucket.ca_file.as_deref(),
        Some(Path::new("/etc/larder/tls/s3.pem"))
    );
    assert_eq!(settings.limits.connection_count_max, 100);
    assert_eq!(settings.nx.inspect, InspectedWriters::Untrusted);
    assert_eq!(settings.limits.idle_timeout, Duration::from_mins(3));
    assert_eq!(settings.log.level, tracing::Level::DEBUG);
    assert_eq!(
        settings.identity.session_ttl_untrusted,
        Duration::from_hours(12)
    );
    assert_eq!(settings.audit.row_count_max, 1000);
    let acme = &settings.workspaces[&"acme".parse().unwrap()];
    assert!(acme.public);
    assert_eq!(
        acme.own_pools,
        Some((Share::Bytes(1 << 30), Share::Bytes(64 << 20)))
    );
    assert_eq!(acme.entry_size_max, Some(10 << 20));
}

#[test]
fn every_problem_is_reported_at_once_with_its_key_and_line() {
    check_faults(
        r#"
[http]
listen = "localhost"
insecure_http = "yes"

[store]
trusted = "50"
untrusted = "1MiB"
trustd = "1GiB"
durability = "fast"
lease = 3600

[limits]
connections_max = 0
header_size_max = "1GiB"

[workspace.Acme]
public = true
[workspace.beta]
trusted = "1GiB"
colour = "red"
"#,
        &[],
        &[
            "F:3: http.listen: \"localhost\" is not an address and a port",
            "F:4: http.insecure_http: write true or false, without quotes",
            "F:7: store.trusted: \"50\" is not a size; write one like \"50GiB\", or a part",
            "F:8: store.untrusted: a pool needs at least 16.0 MiB",
            "F:9: store.trustd: there is no such key; did you mean \"trusted\"?",
            "F:10: store.durability: \"fast\" is none of \"written\", \"synced\"",
            "F:11: store.lease: a number was written; duration goes here, in quotes",
            "F:14: limits.connections_max: write a whole number above 0",
            "F:15: limits.header_size_max: write something from 8.0 KiB to 1.0 MiB",
            "F:17: workspace.Acme: a name consists of a-z, 0-9",
            "F:20: workspace.beta.trusted: a workspace with pools of its own needs both",
            "F:21: workspace.beta.colour: there is no such key",
        ],
    );
}

#[test]
fn a_syntax_error_does_not_hide_the_other_problems() {
    check_faults(
        "[store]\ntrusted = \n[log]\nlevel = \"loud\"\n",
        &[],
        &["F:2: ", "F:4: log.level: \"loud\" is none of"],
    );
}

#[test]
fn a_key_in_the_wrong_place_is_told_its_right_one() {
    check_faults(
        "lease = \"1h\"\nhttp = 3\n[limit]\n[log]\nlisten = \"x\"\n[workspace]\npublic = true\n",
        &[],
        &[
            "F:1: lease: there is no key here; it belongs to [store]",
            "F:2: http: \"http\" is a section: write [http]",
            "F:3: there is no section [limit]; did you mean \"limits\"?",
            "F:5: log.listen: there is no such key; it belongs to [http]",
            "F:7: workspace.public: write [workspace.NAME] and the key below it",
        ],
    );
}

#[test]
fn the_environment_overrides_the_file() {
    let settings = read(
        "[store]\ntrusted = \"1GiB\"\n",
        &[
            ("LARDER_STORE_TRUSTED", "2GiB"),
            ("LARDER_HTTP_INSECURE_HTTP", "true"),
            ("LARDER_LIMITS_CONNECTIONS_MAX", "7"),
            ("LARDER_STORE_DATA_DIR", "here"),
        ],
    )
    .unwrap();
    assert_eq!(settings.store.trusted, Some(Share::Bytes(2 << 30)));
    assert!(settings.http.insecure_http);
    assert_eq!(settings.limits.connection_count_max, 7);
    assert_eq!(settings.store.data_dir, Path::new("here"));
}

#[test]
fn a_misspelled_variable_is_a_problem_and_a_strangers_is_not() {
    check_faults(
        "",
        &[
            ("LARDER_STORE_TRUSTD", "2GiB"),
            ("LARDER_HTTP_LISTEN", "nowhere"),
            ("LARDER_STORE_SERVICE_HOST", "10.0.0.1"),
            ("LARDER_STORE_PORT_9092_TCP", "tcp://10.0.0.1:9092"),
            ("LARDER_PORT", "tcp://10.0.0.1:9092"),
            ("LARDER_PORT_9092_TCP_ADDR", "10.0.0.1"),
            ("LARDER_SERVICE_PORT", "9092"),
            ("LARDER_CONFIG", "larder.toml"),
            ("LARDER_TRUSTED_TOKEN", "a client's"),
            ("LARDER_COLOUR", "red"),
            ("LARDER_DATA_DIR", "/x"),
            ("LARDER_HTTP_PORT", "80"),
            ("LARDER_WORKSPACE_ACME_PUBLIC", "true"),
        ],
        &[
            "variable LARDER_STORE_TRUSTD: there is no such setting; did you mean \"LARDER_STORE_TRUSTED\"?",
            "variable LARDER_COLOUR: there is no such setting",
            "variable LARDER_DATA_DIR: there is no such setting; did you mean \"LARDER_STORE_DATA_DIR\"?",
            "variable LARDER_HTTP_PORT: there is no such setting",
            "variable LARDER_WORKSPACE_ACME_PUBLIC: there is no such setting; keys of workspaces are set in the file only",
            "variable LARDER_HTTP_LISTEN: http.listen: \"nowhere\" is not an address",
        ],
    );
}

#[test]
fn a_data_directory_need_not_have_a_name_in_utf8() {
    use std::os::unix::ffi::OsStrExt as _;
    let name = std::ffi::OsStr::from_bytes(b"/tmp/\xff");
    let mut raw = RawConfig::default();
    raw.set_flag(Key::StoreDataDir, "--data-dir", name.to_owned());
    let settings = resolve(&raw, Problems::default()).unwrap();
    assert_eq!(settings.store.data_dir, Path::new(name));
}

#[test]
fn percentages_cannot_be_more_than_the_disk() {
    check_faults(
        "[store]\ntrusted = \"80%\"\nfree_reserve = \"30%\"\n",
        &[],
        &["F:2: all percentages together are 110% of the disk"],
    );
    check_faults(
        "[store]\ntrusted = \"0%\"\nuntrusted = \"101%\"\n",
        &[],
        &[
            "\"0%\" is not a whole percentage",
            "\"101%\" is not a whole percentage",
        ],
    );
}

#[test]
fn what_was_written_cannot_forge_lines_of_the_report() {
    check_faults(
        "[log]\nlevel = \"a\\nb\\u001b[2J\"\n",
        &[],
        &["log.level: \"a\\nb\\u{1b}[2J\" is none of"],
    );
}

fn tls(keys: &str) -> TlsSettings {
    let toml = format!("[tls]\ncertificate = \"tls/cert.pem\"\nkey = \"/k.pem\"\n{keys}");
    read(&toml, &[]).unwrap().tls.unwrap()
}

#[test]
fn a_certificate_and_its_key_are_all_that_tls_needs() {
    let settings = tls("");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:9443");
    let files = settings.files;
    assert_eq!(files.certificate, Path::new("/etc/larder/tls/cert.pem"));
    assert_eq!(files.key, Path::new("/k.pem"));
    assert_eq!(files.clients, ClientCertificates::Off);
    let elsewhere = tls("listen = \"0.0.0.0:443\"\n");
    assert_eq!(elsewhere.listen.to_string(), "0.0.0.0:443");
    let tls_alone = [
        ("LARDER_HTTP_LISTEN", "off"),
        ("LARDER_TLS_CERTIFICATE", "c"),
        ("LARDER_TLS_KEY", "k"),
    ];
    let settings = read("", &tls_alone).unwrap();
    assert_eq!(settings.http.listen, None);
    assert_eq!(settings.tls.unwrap().files.key, Path::new("k"));
}

#[test]
fn clients_are_asked_for_certificates_once_there_is_an_authority() {
    let asked = |required, crl: Option<&str>| ClientCertificates::Asked {
        ca: "/ca.pem".into(),
        crl: crl.map(Into::into),
        required,
    };
    for (keys, clients) in [
        ("", asked(false, None)),
        ("client_certificates = \"optional\"", asked(false, None)),
        (
            "client_certificates = \"required\"\nclient_crl = \"/crl.pem\"",
            asked(true, Some("/crl.pem")),
        ),
        ("client_certificates = \"off\"", ClientCertificates::Off),
    ] {
        let settings = tls(&format!("client_ca = \"/ca.pem\"\n{keys}\n"));
        assert_eq!(settings.files.clients, clients, "{keys}");
    }
}

#[test]
fn half_a_tls_section_is_a_problem() {
    check_faults(
        "[tls]\nlisten = \"0.0.0.0:443\"\nkey = \"k\"\n",
        &[],
        &["F:2: tls.listen: there is no TLS without a certificate"],
    );
    check_faults(
        "[tls]\ncertificate = \"c\"\n",
        &[],
        &["F:2: tls.certificate: its key is missing"],
    );
    for mode in ["optional", "required"] {
        let keys =
            format!("[tls]\ncertificate = \"c\"\nkey = \"k\"\nclient_certificates = \"{mode}\"\n");
        let expected = "F:4: tls.client_certificates: client_ca is missing";
        check_faults(&keys, &[], &[expected]);
    }
    check_faults(
        "[tls]\ncertificate = \"c\"\nkey = \"k\"\nclient_crl = \"r\"\n",
        &[],
        &["F:4: tls.client_crl: client_ca is missing"],
    );
    check_faults(
        "[http]\nlisten = \"off\"\n",
        &[],
        &["F:2: http.listen: nothing would listen"],
    );
}

#[test]
fn proxies_are_networks() {
    let settings = read("[http]\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]\n", &[]).unwrap();
    let proxies: Vec<String> = settings
        .http
        .trusted_proxies
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(proxies, ["10.0.0.0/8", "::1/128"]);
    let of_environment = [("LARDER_HTTP_TRUSTED_PROXIES", "10.0.0.0/8, ::1")];
    let same = read("", &of_environment).unwrap();
    assert_eq!(same.http.trusted_proxies, settings.http.trusted_proxies);
    for (written, fault) in [
        ("[\"proxy.example\"]", "\"proxy.example\" is no range"),
        ("\"10.0.0.0/8\"", "write a list of texts"),
        ("[10]", "write a list of texts"),
    ] {
        let keys = format!("[http]\ntrusted_proxies = {written}\n");
        check_faults(&keys, &[], &[fault]);
    }
}

#[test]
fn a_bucket_is_a_url_and_what_goes_with_it() {
    assert_eq!(read("", &[]).unwrap().bucket, None);
    let bucket = read("", &[("LARDER_BUCKET_URL", "file:///mnt/share")]);
    let bucket = bucket.unwrap().bucket.unwrap();
    assert_eq!(bucket.ack, Ack::Local);
    assert_eq!(bucket.expire_after, Duration::from_hours(30 * 24));
    check_faults(
        "[bucket]\nack = \"bucket\"",
        &[],
        &["F:2: bucket.ack: there is no bucket without a url"],
    );
    check_faults(
        "[bucket]\nurl = \"https://s3.example/builds\"\nack = \"both\"\nexpire_after = \"1h\"\nencryption = \"kms:\"",
        &[],
        &[
            "this URL as the endpoint",
            "none of",
            "at least 1d",
            "neither",
        ],
    );
    check_faults(
        "[bucket]\nurl = \"s3://key:secret@builds\"",
        &[],
        &["must not have a user's name"],
    );
}
