//! Owns the check whether a text fits a `text.format`: JSON Schema 2020-12 as far as structured outputs use it
//! (<https://platform.openai.com/docs/guides/structured-outputs#supported-schemas>), and common assertions beyond that.
//! It must not fetch anything: a `$ref` points into the schema itself.
//!
//! Schema and text are untrusted, so a check is limited in steps and depth. A text that is not accepted within these
//! limits does not fit.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

/// Most steps of one check, some 20 ms. A schema, a keyword, a member and an enum value take one each.
const MOST_STEPS: u32 = 500_000;
/// Deepest nesting of schemas, including references.
const MOST_DEPTH: u32 = 160;
/// Largest compiled `pattern`, in bytes.
const PATTERN_BYTES: usize = 1 << 18;
/// Steps for compiling a `pattern`.
const PATTERN_STEPS: u32 = 5_000;

/// The format that an answer's text must have.
#[derive(Debug, Clone, PartialEq)]
pub enum Format {
    /// Any JSON object (`json_object`).
    Object,
    /// JSON that fits a schema (`json_schema`).
    Schema(Value),
}

impl Format {
    /// The part of `text` that has this format: the text without surrounding white space, or the content of a single
    /// Markdown code fence around all of it. `None` if it does not fit.
    pub fn fitting<'t>(&self, text: &'t str) -> Option<&'t str> {
        let text = text.trim();
        let text = fenced(text).unwrap_or(text);
        let value: Value = serde_json::from_str(text).ok()?;
        self.fits(&value).then_some(text)
    }

    fn fits(&self, value: &Value) -> bool {
        match self {
            Format::Object => value.is_object(),
            Format::Schema(schema) => {
                let check =
                    Check { root: schema, steps: Cell::new(MOST_STEPS), patterns: RefCell::default() };
                check.schema(schema, value, 0).unwrap_or(false)
            }
        }
    }
}

/// The content of a code fence, if that is all there is.
fn fenced(text: &str) -> Option<&str> {
    let inside = text.strip_prefix("```")?.strip_suffix("```")?;
    let (language, inside) = inside.split_once('\n')?;
    let plain = language.trim().chars().all(|c| c.is_ascii_alphanumeric());
    (plain && !inside.contains("```")).then(|| inside.trim())
}

/// The check took too long, or the schema uses something that is not supported here.
struct Undecided;

type Decided = Result<bool, Undecided>;

struct Check<'s> {
    root: &'s Value,
    /// Steps left.
    steps: Cell<u32>,
    /// Patterns compiled so far; `None` if the regex engine does not support one.
    patterns: RefCell<HashMap<&'s str, Option<Regex>>>,
}

impl<'s> Check<'s> {
    fn step(&self) -> Result<(), Undecided> {
        self.steps(1)
    }

    fn steps(&self, taken: u32) -> Result<(), Undecided> {
        self.steps.set(self.steps.get().checked_sub(taken).ok_or(Undecided)?);
        Ok(())
    }

    fn schema(&self, schema: &'s Value, value: &Value, depth: u32) -> Decided {
        self.step()?;
        if depth > MOST_DEPTH {
            return Err(Undecided);
        }
        let schema = match schema {
            Value::Bool(all) => return Ok(*all),
            Value::Object(schema) => schema,
            _ => return Err(Undecided),
        };
        for (keyword, wanted) in schema {
            self.step()?;
            if !self.keyword(schema, keyword, wanted, value, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn keyword(
        &self,
        schema: &'s Map<String, Value>,
        keyword: &str,
        wanted: &'s Value,
        value: &Value,
        depth: u32,
    ) -> Decided {
        match keyword {
            "$ref" => self.schema(self.resolve(wanted)?, value, depth),
            "allOf" => self.all(wanted, value, depth),
            "anyOf" => Ok(self.count(wanted, value, depth)? > 0),
            "oneOf" => Ok(self.count(wanted, value, depth)? == 1),
            "not" => Ok(!self.schema(wanted, value, depth)?),
            "if" => {
                let branch = if self.schema(wanted, value, depth)? { "then" } else { "else" };
                schema.get(branch).map_or(Ok(true), |branch| self.schema(branch, value, depth))
            }
            "type" => Ok(match wanted {
                Value::Array(types) => types.iter().any(|wanted| has_type(wanted, value)),
                wanted => has_type(wanted, value),
            }),
            "const" => self.same(wanted, value),
            "enum" => {
                for wanted in wanted.as_array().into_iter().flatten() {
                    if self.same(wanted, value)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            _ => match value {
                Value::Object(members) => self.members(schema, keyword, wanted, members, depth),
                Value::Array(elements) => self.elements(schema, keyword, wanted, elements, depth),
                Value::String(text) => self.text(keyword, wanted, text),
                Value::Number(number) => Ok(number_keyword(keyword, wanted, number.as_f64())),
                Value::Bool(_) | Value::Null => Ok(true),
            },
        }
    }

    /// Follows a reference within the schema: `#`, or `#/` and a JSON Pointer.
    fn resolve(&self, reference: &Value) -> Result<&'s Value, Undecided> {
        let pointer = reference.as_str().and_then(|text| text.strip_prefix('#')).ok_or(Undecided)?;
        self.root.pointer(pointer).ok_or(Undecided)
    }

    fn all(&self, schemas: &'s Value, value: &Value, depth: u32) -> Decided {
        for schema in schemas.as_array().into_iter().flatten() {
            if !self.schema(schema, value, depth)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn count(&self, schemas: &'s Value, value: &Value, depth: u32) -> Result<usize, Undecided> {
        let mut fit = 0;
        for schema in schemas.as_array().into_iter().flatten() {
            fit += usize::from(self.schema(schema, value, depth)?);
        }
        Ok(fit)
    }

    fn members(
        &self,
        schema: &'s Map<String, Value>,
        keyword: &str,
        wanted: &'s Value,
        members: &Map<String, Value>,
        depth: u32,
    ) -> Decided {
        let within = |keyword, name: &str| schema.get(keyword).is_some_and(|named| named.get(name).is_some());
        match keyword {
            "properties" => {
                for (name, schema) in wanted.as_object().into_iter().flatten() {
                    self.step()?;
                    if let Some(value) = members.get(name)
                        && !self.schema(schema, value, depth)?
                    {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            "patternProperties" => Err(Undecided),
            "additionalProperties" => {
                for (name, value) in members {
                    self.step()?;
                    if !within("properties", name) && !self.schema(wanted, value, depth)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            "propertyNames" => {
                for name in members.keys() {
                    if !self.schema(wanted, &Value::String(name.clone()), depth)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            "required" => {
                let mut names = wanted.as_array().into_iter().flatten().filter_map(Value::as_str);
                Ok(names.all(|name| members.contains_key(name)))
            }
            "minProperties" => Ok(at_least(wanted, members.len())),
            "maxProperties" => Ok(at_most(wanted, members.len())),
            _ => Ok(true),
        }
    }

    fn elements(
        &self,
        schema: &'s Map<String, Value>,
        keyword: &str,
        wanted: &'s Value,
        elements: &[Value],
        depth: u32,
    ) -> Decided {
        match keyword {
            "items" => {
                let first = schema.get("prefixItems").and_then(Value::as_array).map_or(0, Vec::len);
                for element in elements.iter().skip(first) {
                    if !self.schema(wanted, element, depth)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            "prefixItems" => {
                for (schema, element) in wanted.as_array().into_iter().flatten().zip(elements) {
                    if !self.schema(schema, element, depth)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            "minItems" => Ok(at_least(wanted, elements.len())),
            "maxItems" => Ok(at_most(wanted, elements.len())),
            "uniqueItems" if *wanted == Value::Bool(true) => {
                for (n, element) in elements.iter().enumerate() {
                    for other in elements.iter().skip(n + 1) {
                        if self.same(element, other)? {
                            return Ok(false);
                        }
                    }
                }
                Ok(true)
            }
            "contains" | "unevaluatedItems" => Err(Undecided),
            _ => Ok(true),
        }
    }

    fn text(&self, keyword: &str, wanted: &'s Value, text: &str) -> Decided {
        match keyword {
            "minLength" => Ok(at_least(wanted, text.chars().count())),
            "maxLength" => Ok(at_most(wanted, text.chars().count())),
            "pattern" => self.pattern(wanted.as_str().unwrap_or_default(), text),
            _ => Ok(true),
        }
    }

    /// Matches a pattern. One that the regex engine does not support (look-around, back references) counts as matched:
    /// the server has enforced it.
    fn pattern(&self, pattern: &'s str, text: &str) -> Decided {
        let mut patterns = self.patterns.borrow_mut();
        if !patterns.contains_key(pattern) {
            self.steps(PATTERN_STEPS)?;
        }
        let read = || RegexBuilder::new(pattern).size_limit(PATTERN_BYTES).build().ok();
        let known = patterns.entry(pattern).or_insert_with(read);
        self.steps(u32::try_from(text.len() / 64).unwrap_or(u32::MAX))?;
        Ok(known.as_ref().is_none_or(|known| known.is_match(text)))
    }

    /// Whether two values are equal as JSON: 1 equals 1.0.
    fn same(&self, one: &Value, other: &Value) -> Decided {
        self.step()?;
        Ok(match (one, other) {
            (Value::Number(one), Value::Number(other)) => one == other || one.as_f64() == other.as_f64(),
            (one, other) => one == other,
        })
    }
}

fn has_type(wanted: &Value, value: &Value) -> bool {
    match wanted.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some("number") => value.is_number(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => false,
    }
}

fn number_keyword(keyword: &str, wanted: &Value, number: Option<f64>) -> bool {
    let (Some(wanted), Some(number)) = (wanted.as_f64(), number) else { return true };
    match keyword {
        "minimum" => number >= wanted,
        "maximum" => number <= wanted,
        "exclusiveMinimum" => number > wanted,
        "exclusiveMaximum" => number < wanted,
        "multipleOf" => {
            let times = number / wanted;
            (times - times.round()).abs() < 1e-9
        }
        _ => true,
    }
}

fn at_least(wanted: &Value, length: usize) -> bool {
    wanted.as_f64().is_none_or(|wanted| length as f64 >= wanted)
}

fn at_most(wanted: &Value, length: usize) -> bool {
    wanted.as_f64().is_none_or(|wanted| length as f64 <= wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fits(schema: Value, value: Value) -> bool {
        Format::Schema(schema).fitting(&value.to_string()).is_some()
    }

    #[test]
    fn keywords_are_checked() {
        let person = json!({
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 2, "pattern": "^[A-Z]"},
                "age": {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 150},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2, "uniqueItems": true},
                "boss": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
                "size": {"$ref": "#/$defs/size"},
            },
            "required": ["name", "age"],
            "additionalProperties": false,
            "$defs": {"size": {"type": "number", "multipleOf": 0.1}},
        });
        for (value, want) in [
            (json!({"name": "Ada", "age": 36}), true),
            (json!({"name": "Ada", "age": null, "tags": ["a", "b"], "size": 0.3}), true),
            (json!({"name": "Ada", "age": 36.0, "boss": {"name": "Bo", "age": 1, "boss": null}}), true),
            (json!({"name": "Ada"}), false),
            (json!({"name": "A", "age": 1}), false),
            (json!({"name": "ada", "age": 1}), false),
            (json!({"name": "Ada", "age": 1.5}), false),
            (json!({"name": "Ada", "age": 150}), false),
            (json!({"name": "Ada", "age": "36"}), false),
            (json!({"name": "Ada", "age": 1, "tags": ["a", "a"]}), false),
            (json!({"name": "Ada", "age": 1, "tags": ["c"]}), false),
            (json!({"name": "Ada", "age": 1, "size": 0.25}), false),
            (json!({"name": "Ada", "age": 1, "boss": {"name": "Bo"}}), false),
            (json!({"name": "Ada", "age": 1, "more": 1}), false),
            (json!("Ada"), false),
        ] {
            assert_eq!(fits(person.clone(), value.clone()), want, "{value}");
        }
        for (schema, value, want) in [
            (json!({"oneOf": [{"type": "integer"}, {"minimum": 2}]}), json!(1), true),
            (json!({"oneOf": [{"type": "integer"}, {"minimum": 2}]}), json!(3), false),
            (json!({"allOf": [{"minimum": 1}, {"maximum": 2}]}), json!(3), false),
            (json!({"not": {"type": "null"}}), json!(null), false),
            (json!({"const": 1}), json!(1.0), true),
            (json!({"if": {"type": "string"}, "then": {"maxLength": 1}, "else": false}), json!("ab"), false),
            (json!({"if": {"type": "string"}, "then": {"maxLength": 1}, "else": false}), json!(1), false),
            (
                json!({"prefixItems": [{"type": "string"}], "items": {"type": "null"}}),
                json!(["a", null]),
                true,
            ),
            (json!({"prefixItems": [{"type": "string"}], "items": {"type": "null"}}), json!(["a", 1]), false),
            (json!({"propertyNames": {"maxLength": 1}}), json!({"ab": 1}), false),
            (json!({"minItems": 1}), json!([]), false),
            (json!({"maxProperties": 0}), json!({"a": 1}), false),
            (json!(true), json!({}), true),
            (json!(false), json!({}), false),
        ] {
            assert_eq!(fits(schema.clone(), value.clone()), want, "{schema} {value}");
        }
    }

    #[test]
    fn the_json_of_a_text_is_found() {
        for (text, want) in [
            (" {\"a\": 1}\n", Some("{\"a\": 1}")),
            ("```json\n{\"a\": 1}\n```", Some("{\"a\": 1}")),
            ("```\n{}\n```", Some("{}")),
            ("Here: {\"a\": 1}", None),
            ("```json\n{}\n``` and ```\n{}\n```", None),
            ("[1]", None),
            ("{\"a\": 1", None),
            ("", None),
        ] {
            assert_eq!(Format::Object.fitting(text), want, "{text}");
        }
    }

    /// Neither self-references nor exponentially many references block the thread.
    #[test]
    fn hostile_schemas_end() {
        assert!(!fits(json!({"$ref": "#"}), json!(1)));
        assert!(!fits(json!({"$ref": "https://example.com/schema"}), json!(1)));
        let mut defs = Map::new();
        for n in 0..100 {
            let next = json!({"$ref": format!("#/$defs/{}", n + 1)});
            defs.insert(n.to_string(), json!({"allOf": [next, next]}));
        }
        defs.insert("100".to_owned(), json!(true));
        assert!(!fits(json!({"$ref": "#/$defs/0", "$defs": defs}), json!(1)));
        let numbers: Vec<u32> = (0..4_000).collect();
        assert!(!fits(json!({"uniqueItems": true}), json!(numbers)));
    }
}
