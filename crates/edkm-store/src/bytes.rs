//! Bytes that a store can hold without copying them.

use std::any::Any;
use std::sync::Arc;

use bytemuck::NoUninit;

use crate::DType;

/// Bytes that a store can hold without copying them: a tensor of some framework, a `Vec`, a file mapping.
///
/// While a store holds a value, `as_bytes` must return the same bytes each time: interior mutability would be seen as
/// corruption when the value is loaded. The address of the bytes may change.
///
/// They need not have arrived yet when they are saved: those of a device are still being copied while its next ops run.
pub trait SharedBytes: Any + Send + Sync {
    /// The bytes, in the machine's own byte order. Waits for them if they have not arrived; there are none if they cannot.
    fn as_bytes(&self) -> &[u8];

    /// How many they are or will be, without waiting.
    fn byte_len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Waits until the bytes have arrived. A store asks before it packs them.
    ///
    /// # Errors
    /// Why they cannot arrive, in words.
    fn arrive(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What becomes of a record that was fetched ahead ([`crate::StoreBuilder::overlap`]) before its ticket is loaded, on the thread that fetched it: a
/// device can begin to take it up.
pub trait Uptake: Send + Sync {
    /// Gives what the ticket shall give in place of `bytes`: the same bytes, in whatever wrapping. What fails here is left to him who loads the ticket.
    fn take_up(&self, bytes: Arc<dyn SharedBytes>) -> Arc<dyn SharedBytes>;
}

impl std::fmt::Debug for dyn Uptake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an uptake")
    }
}

impl<T: NoUninit + Send + Sync> SharedBytes for Vec<T> {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl<T: NoUninit + Send + Sync> SharedBytes for Box<[T]> {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(self)
    }
}

impl std::fmt::Debug for dyn SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.byte_len())
    }
}

/// Gives back the value behind `bytes` when it is a `T`, and `bytes` itself when it is not.
///
/// ```
/// use std::sync::Arc;
/// use edkm_store::{downcast, SharedBytes};
///
/// let bytes: Arc<dyn SharedBytes> = Arc::new(vec![1.0f32, 2.0]);
/// assert!(downcast::<Vec<f32>>(bytes).is_ok());
/// ```
pub fn downcast<T: SharedBytes>(bytes: Arc<dyn SharedBytes>) -> Result<Arc<T>, Arc<dyn SharedBytes>> {
    if (&*bytes as &dyn Any).is::<T>() {
        let any: Arc<dyn Any + Send + Sync> = bytes;
        Ok(any
            .downcast()
            .unwrap_or_else(|_| unreachable!("the type was looked at above")))
    } else {
        Err(bytes)
    }
}

/// Bytes that the store rebuilds: a `Vec` of the record's own element type, so that a framework can take it over
/// without a copy and without a question of alignment.
pub(crate) enum Buffer {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    U64(Vec<u64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
}

impl Buffer {
    /// `len` zero bytes for elements of `dtype`; bytes that are no whole number of elements are kept as `U8`.
    pub(crate) fn zeroed(dtype: DType, len: usize) -> Self {
        let size = dtype.size();
        if !len.is_multiple_of(size) {
            return Self::U8(vec![0; len]);
        }
        let count = len / size;
        match dtype {
            DType::U8 | DType::I8 => Self::U8(vec![0; len]),
            DType::U16 | DType::F16 | DType::Bf16 => Self::U16(vec![0; count]),
            DType::U32 | DType::I32 => Self::U32(vec![0; count]),
            DType::U64 | DType::I64 => Self::U64(vec![0; count]),
            DType::F32 => Self::F32(vec![0.0; count]),
            DType::F64 => Self::F64(vec![0.0; count]),
        }
    }

    pub(crate) fn as_mut_bytes(&mut self) -> &mut [u8] {
        match self {
            Self::U8(v) => v,
            Self::U16(v) => bytemuck::cast_slice_mut(v),
            Self::U32(v) => bytemuck::cast_slice_mut(v),
            Self::U64(v) => bytemuck::cast_slice_mut(v),
            Self::F32(v) => bytemuck::cast_slice_mut(v),
            Self::F64(v) => bytemuck::cast_slice_mut(v),
        }
    }

    pub(crate) fn into_shared(self) -> Arc<dyn SharedBytes> {
        match self {
            Self::U8(v) => Arc::new(v),
            Self::U16(v) => Arc::new(v),
            Self::U32(v) => Arc::new(v),
            Self::U64(v) => Arc::new(v),
            Self::F32(v) => Arc::new(v),
            Self::F64(v) => Arc::new(v),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vec_comes_back_as_itself_and_as_nothing_else() {
        let shared: Arc<dyn SharedBytes> = Arc::new(vec![1.5f32, -2.0]);
        assert_eq!(
            shared.as_bytes(),
            [1.5f32, -2.0].iter().flat_map(|x| x.to_ne_bytes()).collect::<Vec<_>>()
        );
        let shared = downcast::<Vec<u32>>(shared).expect_err("not a Vec<u32>");
        let vec = downcast::<Vec<f32>>(shared).expect("a Vec<f32>");
        assert_eq!(Arc::try_unwrap(vec).expect("the only owner"), vec![1.5, -2.0]);
    }

    #[test]
    fn a_rebuilt_buffer_has_the_element_type_of_its_record() {
        let mut buffer = Buffer::zeroed(DType::F32, 8);
        buffer
            .as_mut_bytes()
            .copy_from_slice(bytemuck::cast_slice(&[3.0f32, 4.0]));
        assert_eq!(
            *downcast::<Vec<f32>>(buffer.into_shared()).expect("a Vec<f32>"),
            vec![3.0, 4.0]
        );
        assert_eq!(Buffer::zeroed(DType::F64, 7).into_shared().as_bytes().len(), 7);
    }
}
