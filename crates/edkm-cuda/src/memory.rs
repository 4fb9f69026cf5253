//! Runs of numbers in a device's memory.
#![allow(unsafe_code)]

use std::marker::PhantomData;

use bytemuck::Pod;

use crate::check::{self, TooLarge};
use crate::{Argument, Runtime};

/// Numbers in a device's memory, to read.
#[derive(Debug)]
pub struct Slice<'a, T> {
    address: u64,
    len: usize,
    memory: PhantomData<&'a [T]>,
}

impl<T> Clone for Slice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slice<'_, T> {}

/// Numbers in a device's memory, to write.
#[derive(Debug)]
pub struct SliceMut<'a, T> {
    address: u64,
    len: usize,
    memory: PhantomData<&'a mut [T]>,
}

impl<'a, T> Slice<'a, T> {
    /// The `len` numbers from `address` on.
    ///
    /// # Safety
    /// They lie in the memory of the runtime that the slice is used with, aligned, and nothing writes to them during `'a`.
    pub unsafe fn from_raw(address: u64, len: usize) -> Self {
        Slice {
            address,
            len,
            memory: PhantomData,
        }
    }

    /// How many.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(self) -> usize {
        self.len
    }

    /// The numbers `first..first + len`.
    ///
    /// # Panics
    /// If they are not all in the slice.
    pub fn part(self, first: usize, len: usize) -> Slice<'a, T> {
        check_part(self.len, first, len);
        Slice {
            address: self.address + (first * size_of::<T>()) as u64,
            len,
            memory: PhantomData,
        }
    }

    /// The same memory as numbers of another type, as many as fit.
    ///
    /// # Panics
    /// If the type is aligned to more than this one.
    pub fn cast<U: Pod>(self) -> Slice<'a, U>
    where
        T: Pod,
    {
        assert!(align_of::<U>() <= align_of::<T>(), "numbers that may not be aligned");
        Slice {
            address: self.address,
            len: self.len * size_of::<T>() / size_of::<U>(),
            memory: PhantomData,
        }
    }

    /// As an argument of a kernel.
    pub(crate) fn argument(self) -> Argument {
        Argument::Address(self.address)
    }

    pub(crate) fn address(self) -> u64 {
        self.address
    }

    /// Copies to the host.
    ///
    /// # Errors
    /// The runtime's.
    pub fn to_host<R: Runtime>(self, runtime: &R) -> Result<Vec<T>, R::Error>
    where
        T: Pod,
    {
        let mut numbers = vec![T::zeroed(); self.len];
        // SAFETY: a slice is in its runtime's memory, by the contract of `from_raw`.
        unsafe { runtime.read(self.address, bytemuck::cast_slice_mut(&mut numbers)) }?;
        Ok(numbers)
    }
}

impl<T: Pod> Slice<'_, T> {
    /// Copies to the host while `meanwhile` launches more, which these numbers do not wait for: see [`Runtime::read_before`].
    ///
    /// # Errors
    /// The runtime's.
    pub fn to_host_before<R: Runtime, M>(
        self,
        runtime: &R,
        meanwhile: impl FnOnce() -> Result<M, R::Error>,
    ) -> Result<(Vec<T>, M), R::Error> {
        let mut numbers = vec![T::zeroed(); self.len];
        // SAFETY: a slice is in its runtime's memory, and nothing writes to it while it is there, by the contract of `from_raw`.
        let made = unsafe { runtime.read_before(self.address, bytemuck::cast_slice_mut(&mut numbers), meanwhile) }?;
        Ok((numbers, made))
    }
}

impl<'a, T> SliceMut<'a, T> {
    /// The `len` numbers from `address` on.
    ///
    /// # Safety
    /// As [`Slice::from_raw`], and nothing else reads or writes them during `'a`.
    pub unsafe fn from_raw(address: u64, len: usize) -> Self {
        SliceMut {
            address,
            len,
            memory: PhantomData,
        }
    }

    /// How many.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The same numbers, to read.
    pub fn as_slice(&self) -> Slice<'_, T> {
        Slice {
            address: self.address,
            len: self.len,
            memory: PhantomData,
        }
    }

    /// The same numbers, for a shorter time.
    pub fn reborrow(&mut self) -> SliceMut<'_, T> {
        SliceMut {
            address: self.address,
            len: self.len,
            memory: PhantomData,
        }
    }

    /// The numbers `first..first + len`.
    ///
    /// # Panics
    /// If they are not all in the slice.
    pub fn part(&mut self, first: usize, len: usize) -> SliceMut<'_, T> {
        check_part(self.len, first, len);
        SliceMut {
            address: self.address + (first * size_of::<T>()) as u64,
            len,
            memory: PhantomData,
        }
    }

    /// The numbers in runs of so many, from the first on.
    ///
    /// # Panics
    /// If they are not all in the slice.
    pub fn split<const N: usize>(self, lens: [usize; N]) -> [SliceMut<'a, T>; N] {
        let mut first = 0;
        lens.map(|len| {
            check_part(self.len, first, len);
            let run = SliceMut {
                address: self.address + (first * size_of::<T>()) as u64,
                len,
                memory: PhantomData,
            };
            first += len;
            run
        })
    }

    /// The same memory as numbers of another type, as many as fit.
    ///
    /// # Panics
    /// If the type is aligned to more than this one.
    pub fn cast<U: Pod>(self) -> SliceMut<'a, U>
    where
        T: Pod,
    {
        assert!(align_of::<U>() <= align_of::<T>(), "numbers that may not be aligned");
        SliceMut {
            address: self.address,
            len: self.len * size_of::<T>() / size_of::<U>(),
            memory: PhantomData,
        }
    }

    /// Overwrites all numbers from the host.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If there are fewer or more.
    pub fn write<R: Runtime>(&mut self, runtime: &R, numbers: &[T]) -> Result<(), R::Error>
    where
        T: Pod,
    {
        self.write_bytes(runtime, bytemuck::cast_slice(numbers))
    }

    /// The same from the numbers' bytes, which need not be aligned.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If there are fewer or more.
    pub fn write_bytes<R: Runtime>(&mut self, runtime: &R, bytes: &[u8]) -> Result<(), R::Error>
    where
        T: Pod,
    {
        check::len("bytes", bytes.len(), self.len * size_of::<T>());
        // SAFETY: a slice is in its runtime's memory and borrowed uniquely, by the contract of `from_raw`.
        unsafe { runtime.write(self.address, bytes) }
    }

    /// As an argument of a kernel.
    pub(crate) fn argument(&mut self) -> Argument {
        Argument::Address(self.address)
    }

    pub(crate) fn address(&mut self) -> u64 {
        self.address
    }
}

#[track_caller]
fn check_part(len: usize, first: usize, part: usize) {
    assert!(
        first.checked_add(part).is_some_and(|end| end <= len),
        "{part} numbers from {first} on are asked of {len}"
    );
}

/// Bytes of so many numbers. Not every device can allocate nothing.
fn bytes_of<T>(len: usize) -> Result<usize, TooLarge> {
    Ok(check::product("bytes of numbers on the device", [len, size_of::<T>()])?.max(8))
}

/// Numbers in a device's memory, owned.
pub struct Array<R: Runtime, T> {
    memory: R::Memory,
    len: usize,
    numbers: PhantomData<T>,
}

impl<R: Runtime, T: Pod> Array<R, T> {
    /// So many zeros.
    ///
    /// # Errors
    /// The runtime's, out of memory above all.
    pub fn zeroed(runtime: &R, len: usize) -> Result<Self, R::Error> {
        let memory = runtime.allocate(bytes_of::<T>(len)?)?;
        Ok(Array {
            memory,
            len,
            numbers: PhantomData,
        })
    }

    /// So many numbers, whatever they are: to be written before they are read.
    ///
    /// # Errors
    /// The runtime's, out of memory above all.
    pub fn unset(runtime: &R, len: usize) -> Result<Self, R::Error> {
        let memory = runtime.allocate_unset(bytes_of::<T>(len)?)?;
        Ok(Array {
            memory,
            len,
            numbers: PhantomData,
        })
    }

    /// A copy of numbers of the host.
    ///
    /// # Errors
    /// The runtime's.
    pub fn from_host(runtime: &R, numbers: &[T]) -> Result<Self, R::Error> {
        let mut array = Array::unset(runtime, numbers.len())?;
        array.write(runtime, numbers)?;
        Ok(array)
    }

    /// Overwrites all numbers from the host.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If there are fewer or more.
    pub fn write(&mut self, runtime: &R, numbers: &[T]) -> Result<(), R::Error> {
        self.as_mut().write(runtime, numbers)
    }

    /// To read.
    pub fn as_slice(&self) -> Slice<'_, T> {
        Slice {
            address: R::address(&self.memory),
            len: self.len,
            memory: PhantomData,
        }
    }

    /// To write.
    pub fn as_mut(&mut self) -> SliceMut<'_, T> {
        SliceMut {
            address: R::address(&self.memory),
            len: self.len,
            memory: PhantomData,
        }
    }

    /// Copies to the host.
    ///
    /// # Errors
    /// The runtime's.
    pub fn to_host(&self, runtime: &R) -> Result<Vec<T>, R::Error> {
        self.as_slice().to_host(runtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Nowhere;

    #[test]
    fn numbers_that_cannot_be_addressed_are_an_error() {
        assert!(Array::<_, f32>::unset(&Nowhere, usize::MAX / 4).is_ok());
        let error = Array::<_, f32>::zeroed(&Nowhere, usize::MAX / 4 + 1).err();
        let message = "bytes of numbers on the device: 4611686018427387904 x 4 is too large";
        let error = error.expect("2^64 bytes").to_string();
        assert!(error.starts_with(message), "{error}");
    }
}
