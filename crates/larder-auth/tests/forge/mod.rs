//! Keys of issuers, and JWTs written by hand: what an issuer signs, and what nobody should believe.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses another part")]

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use larder_auth::{Issuer, Issuers, KeySource};
use serde_json::{Value, json};

pub(crate) const NOW_S: u64 = 1_800_000_000;
pub(crate) const NOW_MS: u64 = NOW_S * 1000;
pub(crate) const ISSUER: &str = "https://ci.example";
pub(crate) const AUDIENCE: &str = "https://cache.example";

pub(crate) enum Key {
    Rsa(aws_lc_rs::rsa::KeyPair),
    Ec(EcdsaKeyPair, &'static str),
    Ed(Ed25519KeyPair),
}

/// The issuer's key, which takes long to make.
pub(crate) static RSA: LazyLock<Key> = LazyLock::new(Key::rsa);
pub(crate) static OTHER_RSA: LazyLock<Key> = LazyLock::new(Key::rsa);

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Key {
    pub(crate) fn rsa() -> Self {
        Self::Rsa(aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    pub(crate) fn p256() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self::Ec(pair.unwrap(), "P-256")
    }

    pub(crate) fn p384() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING);
        Self::Ec(pair.unwrap(), "P-384")
    }

    pub(crate) fn ed25519() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    /// The public half as a JSON Web Key.
    pub(crate) fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Rsa(_) => {
                let (modulus, exponent) = self.rsa_public();
                json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id,
                    "n": encode(modulus), "e": encode(exponent)})
            }
            Self::Ec(pair, curve) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({"kty": "EC", "crv": curve, "kid": id, "x": encode(x), "y": encode(y)})
            }
            Self::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "kid": id,
                "x": encode(pair.public_key().as_ref())}),
        }
    }

    /// Modulus and exponent, from `SEQUENCE { INTEGER, INTEGER }`.
    fn rsa_public(&self) -> (Vec<u8>, Vec<u8>) {
        let Self::Rsa(pair) = self else {
            panic!("not RSA")
        };
        let der = pair.public_key().as_ref();
        assert_eq!(
            (der[4], &der[265..267]),
            (2, &[2, 3][..]),
            "2048 bits, 65537"
        );
        (der[9..265].to_vec(), der[267..270].to_vec())
    }

    pub(crate) fn public_der(&self) -> Vec<u8> {
        let Self::Rsa(pair) = self else {
            panic!("not RSA")
        };
        pair.public_key().as_ref().to_vec()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let signed = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.unwrap();
                signature
            }
            Self::Ec(pair, _) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The JWT with these texts, signed by this key whatever they say.
    pub(crate) fn jwt(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", encode(signature))
    }
}

pub(crate) fn header() -> Value {
    json!({"alg": "RS256", "typ": "JWT", "kid": "one"})
}

/// The claims of a JWT that is good now.
pub(crate) fn claims() -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": "repo:acme/web", "iat": NOW_S - 60,
        "nbf": NOW_S - 600, "exp": NOW_S + 300, "jti": "1"})
}

pub(crate) fn key_set(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

/// An issuer with fixed keys.
pub(crate) fn fixed(keys: &[Value]) -> Issuer {
    Issuer {
        keys: KeySource::Fixed(key_set(keys)),
        ..Issuer::new(ISSUER, AUDIENCE)
    }
}

/// The issuer whose key `one` is [`RSA`].
pub(crate) fn issuers() -> Issuers {
    Issuers::new(vec![fixed(&[RSA.jwk("one")])]).unwrap()
}
