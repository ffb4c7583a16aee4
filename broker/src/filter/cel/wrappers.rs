//! The messages of `google/protobuf/wrappers.proto`, which CEL takes for the
//! values that they wrap.

use std::collections::BTreeMap;

use cel::{
    DeclarationError, Env, ExecutionError, StructType,
    common::{
        types::{CelBool, CelBytes, CelDouble, CelInt, CelString, CelUInt, Kind, Type},
        value::{CowVal, Val},
    },
};

struct Wrapper {
    of: Type,
    wraps: Wraps,
}

#[derive(Clone, Copy)]
enum Wraps {
    Bool,
    Bytes,
    Double,
    Float,
    Int32,
    Int64,
    String,
    Uint32,
    Uint64,
}

impl Wraps {
    fn kind(self) -> Kind {
        match self {
            Self::Bool => Kind::Boolean,
            Self::Bytes => Kind::Bytes,
            Self::Double | Self::Float => Kind::Double,
            Self::Int32 | Self::Int64 => Kind::Int,
            Self::String => Kind::String,
            Self::Uint32 | Self::Uint64 => Kind::UInt,
        }
    }

    fn zero(self) -> Box<dyn Val> {
        match self.kind() {
            Kind::Boolean => Box::new(CelBool::from(false)),
            Kind::Bytes => Box::new(CelBytes::from(Vec::new())),
            Kind::Double => Box::new(CelDouble::from(0.0)),
            Kind::Int => Box::new(CelInt::from(0)),
            Kind::UInt => Box::new(CelUInt::from(0)),
            _ => Box::new(CelString::from(String::new())),
        }
    }

    /// Whether the narrower type has this value.
    fn holds(self, value: &dyn Val) -> bool {
        value.get_type().kind() == self.kind()
            && match self {
                Self::Int32 => value
                    .downcast_ref::<CelInt>()
                    .is_some_and(|int| i32::try_from(*int.inner()).is_ok()),
                Self::Uint32 => value
                    .downcast_ref::<CelUInt>()
                    .is_some_and(|uint| u32::try_from(*uint.inner()).is_ok()),
                _ => true,
            }
    }
}

impl StructType for Wrapper {
    fn get_type(&self) -> &Type {
        &self.of
    }

    fn new_value<'b, 'v>(
        &self,
        mut fields: BTreeMap<String, CowVal<'b, 'v>>,
    ) -> Result<Box<dyn Val + 'v>, ExecutionError> {
        let value = fields.remove("value");
        if let Some(other) = fields.keys().next() {
            return Err(ExecutionError::no_such_key(other));
        }
        match value {
            None => Ok(self.wraps.zero()),
            Some(value) if !self.wraps.holds(value.as_ref()) => Err(
                ExecutionError::function_error(self.of.name(), "the value is out of range"),
            ),
            Some(value) => match (self.wraps, value.downcast_ref::<CelDouble>()) {
                (Wraps::Float, Some(double)) => {
                    Ok(Box::new(CelDouble::from(f64::from(*double.inner() as f32))))
                }
                _ => Ok(value.into_owned()),
            },
        }
    }
}

/// Adds the messages.
pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    for (name, wraps) in [
        ("BoolValue", Wraps::Bool),
        ("BytesValue", Wraps::Bytes),
        ("DoubleValue", Wraps::Double),
        ("FloatValue", Wraps::Float),
        ("Int32Value", Wraps::Int32),
        ("Int64Value", Wraps::Int64),
        ("StringValue", Wraps::String),
        ("UInt32Value", Wraps::Uint32),
        ("UInt64Value", Wraps::Uint64),
    ] {
        let of = Type::new_struct(format!("google.protobuf.{name}"));
        env.add_type(Wrapper { of, wraps })?;
    }
    Ok(())
}
