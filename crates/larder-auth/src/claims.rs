//! The claims of a JWT: a JSON object, read strictly.
//!
//! A name that occurs twice, at any depth, makes the whole text unreadable: two readers of one JSON text may each believe
//! another of the two values, and one of the readers would be whoever signed it.
//!
//! Always true: [`VerifiedClaims`] exist only where an issuer's signature, audience and times have been checked
//! ([`Issuers::verify`](crate::Issuers::verify)). [`Claims`] are what somebody says.

use std::fmt;
use std::ops::Deref;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A text that is no JSON object, or one in which a name occurs twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not one JSON object in which every name occurs once")]
pub struct MalformedClaims;

/// What a JWT, or somebody who tests a policy, says.
#[derive(Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// Reads one JSON object, with nothing but white space around it.
    pub fn parse(json: &[u8]) -> Result<Self, MalformedClaims> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        match Strict.deserialize(&mut deserializer) {
            Ok(Value::Object(claims)) if deserializer.end().is_ok() => Ok(Self(claims)),
            Ok(_) | Err(_) => Err(MalformedClaims),
        }
    }

    /// The claim's value, whatever its type.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The claim's text. A number, a truth value or a list is none.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// The claim's truth value. The text "true" is none.
    pub fn truth(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    /// The claim's whole number. A text of digits or a fraction is none.
    pub fn whole_number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    /// Whether there is such a claim, even if it is `null`.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The claims' names and values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// Claims may name people: the names of the claims alone.
impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Claims that a configured issuer has signed, for this server, and that are in force.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedClaims {
    claims: Claims,
    issuer: String,
    valid_until_ms: u64,
}

impl VerifiedClaims {
    pub(crate) fn new(claims: Claims, issuer: String, valid_until_ms: u64) -> Self {
        Self {
            claims,
            issuer,
            valid_until_ms,
        }
    }

    /// The issuer, exactly as it is configured.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// When the JWT stops being good, in unix milliseconds: its `exp` and the leeway.
    pub fn valid_until_ms(&self) -> u64 {
        self.valid_until_ms
    }
}

impl Deref for VerifiedClaims {
    type Target = Claims;

    fn deref(&self) -> &Claims {
        &self.claims
    }
}

/// Reads any JSON value in which no object has a name twice. How deep values may nest is serde_json's limit, 128.
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON in which no object has a name twice")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Value, E> {
        Ok(Value::Bool(truth))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        let number = Number::from_f64(number).ok_or_else(|| E::custom("not a finite number"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element_seed(Self)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Self)?;
            if object.insert(name, value).is_some() {
                return Err(A::Error::custom("a name occurs twice"));
            }
        }
        Ok(Value::Object(object))
    }
}
