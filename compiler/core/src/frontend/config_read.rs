//! Typed access to the objects of a config: each getter names the key's path and place when the
//! value is not what it should be.
//!
//! A key that is absent gives its default. So does `null`, but only where the reference's own
//! config class has a default of "none".

use super::config_error::ConfigError;
use super::span::{Member, Spanned, Value};
use std::ops::{Range, RangeInclusive};

/// An object of the config and the path to it.
#[derive(Clone)]
pub(super) struct Object<'a> {
    /// Empty for the root.
    path: String,
    members: &'a [Member],
    at: Range<usize>,
}

/// A value and the path to it.
#[derive(Clone)]
pub(super) struct Field<'a> {
    pub path: String,
    pub value: &'a Spanned,
}

impl<'a> Object<'a> {
    pub fn root(value: &'a Spanned) -> Result<Self, ConfigError> {
        Field { path: String::new(), value }.object()
    }

    /// The path of a key, whether the object has it or not.
    pub fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    /// Whatever stands under `key`, `null` included.
    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        let member = self.members.iter().find(|m| m.key == key)?;
        Some(Field { path: self.path_of(key), value: &member.value })
    }

    /// What stands under `key`, unless it is `null`.
    pub fn some(&self, key: &str) -> Option<Field<'a>> {
        self.get(key).filter(|f| f.value.value != Value::Null)
    }

    pub fn place_of(&self, key: &str) -> Option<Range<usize>> {
        self.get(key).map(|f| f.value.at.clone())
    }

    /// The brace that opens the object.
    pub fn opening(&self) -> Range<usize> {
        self.at.start..self.at.start + 1
    }

    /// That `key` should be here.
    pub fn missing(&self, key: &str, expected: &'static str) -> ConfigError {
        ConfigError::Missing { field: self.path_of(key), expected, at: self.opening() }
    }

    /// A whole number within `range`.
    pub fn size(
        &self,
        key: &str,
        default: u32,
        range: RangeInclusive<u32>,
    ) -> Result<u32, ConfigError> {
        self.get(key).map_or(Ok(default), |f| f.size(range))
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        self.get(key).map_or(Ok(default), |f| f.flag())
    }

    pub fn number(&self, key: &str, default: f64) -> Result<f64, ConfigError> {
        self.get(key).map_or(Ok(default), |f| f.number())
    }

    pub fn object(&self, key: &str) -> Result<Option<Object<'a>>, ConfigError> {
        self.some(key).map(|f| f.object()).transpose()
    }

    /// Refuse a flag that is not `wanted`; absent means `wanted`.
    pub fn must_be(
        &self,
        key: &str,
        wanted: bool,
        help: Option<&'static str>,
    ) -> Result<(), ConfigError> {
        match self.get(key) {
            Some(field) if field.flag()? != wanted => {
                Err(field.unsupported(if wanted { "true" } else { "false" }, help))
            }
            _ => Ok(()),
        }
    }

    /// Refuse a list that has entries.
    pub fn must_be_empty(&self, key: &str, help: &'static str) -> Result<(), ConfigError> {
        match self.some(key) {
            Some(field) if !field.array()?.is_empty() => {
                Err(field.unsupported("an empty array", Some(help)))
            }
            _ => Ok(()),
        }
    }

    /// Refuse a string that is none of `known`.
    pub fn must_be_one_of(
        &self,
        key: &str,
        known: &[&str],
        expected: &'static str,
        help: Option<&'static str>,
    ) -> Result<(), ConfigError> {
        match self.some(key) {
            Some(field) if !known.contains(&field.text()?) => {
                Err(field.unsupported(expected, help))
            }
            _ => Ok(()),
        }
    }
}

impl<'a> Field<'a> {
    pub fn at(&self) -> Range<usize> {
        self.value.at.clone()
    }

    pub fn found(&self) -> String {
        self.value.describe()
    }

    pub fn object(&self) -> Result<Object<'a>, ConfigError> {
        match &self.value.value {
            Value::Object(members) => {
                Ok(Object { path: self.path.clone(), members, at: self.at() })
            }
            _ => Err(self.wrong_type("an object")),
        }
    }

    pub fn array(&self) -> Result<Vec<Field<'a>>, ConfigError> {
        let Value::Array(items) = &self.value.value else {
            return Err(self.wrong_type("an array"));
        };
        let entry = |(i, value)| Field { path: format!("{}[{i}]", self.path), value };
        Ok(items.iter().enumerate().map(entry).collect())
    }

    pub fn text(&self) -> Result<&'a str, ConfigError> {
        match &self.value.value {
            Value::String(s) => Ok(s),
            _ => Err(self.wrong_type("a string")),
        }
    }

    pub fn flag(&self) -> Result<bool, ConfigError> {
        match self.value.value {
            Value::Bool(b) => Ok(b),
            _ => Err(self.wrong_type("true or false")),
        }
    }

    pub fn size(&self, range: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let Value::Number(spelled) = &self.value.value else {
            return Err(self.wrong_type("a whole number"));
        };
        let is_whole = spelled.bytes().all(|b| b.is_ascii_digit() || b == b'-');
        if !is_whole {
            return Err(self.wrong_type("a whole number"));
        }
        match spelled.parse::<u32>() {
            Ok(n) if range.contains(&n) => Ok(n),
            _ => Err(self.out_of_range(format!(
                "a whole number from {} to {}",
                range.start(),
                range.end()
            ))),
        }
    }

    pub fn number(&self) -> Result<f64, ConfigError> {
        let Value::Number(spelled) = &self.value.value else {
            return Err(self.wrong_type("a number"));
        };
        match spelled.parse::<f64>() {
            Ok(n) if n.is_finite() => Ok(n),
            _ => Err(self.out_of_range("a number that a double can hold".into())),
        }
    }

    pub fn wrong_type(&self, expected: &'static str) -> ConfigError {
        let field = match self.path.as_str() {
            "" => "config",
            path => path,
        };
        ConfigError::WrongType { field: field.into(), found: self.found(), expected, at: self.at() }
    }

    pub fn unsupported(&self, expected: &'static str, help: Option<&'static str>) -> ConfigError {
        ConfigError::Unsupported {
            field: self.path.clone(),
            found: self.found(),
            expected,
            help,
            at: self.at(),
        }
    }

    pub fn out_of_range(&self, expected: String) -> ConfigError {
        ConfigError::OutOfRange {
            field: self.path.clone(),
            found: self.found(),
            expected,
            at: self.at(),
        }
    }
}
