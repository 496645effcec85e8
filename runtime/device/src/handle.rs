//! What a device is asked for by number, and the parts of a buffer.

use crate::{DeviceError, Span};
use std::ops::Range;

/// What `id` stands for among all that a device has of its kind.
///
/// # Errors
///
/// [`DeviceError::Handle`].
pub fn find<'a, T>(what: &'static str, all: &'a [T], id: u32) -> Result<&'a T, DeviceError> {
    all.get(id as usize).ok_or(DeviceError::Handle { what, id, count: all.len() })
}

impl Span {
    /// Where it lies in its buffer of so many bytes.
    ///
    /// # Errors
    ///
    /// [`DeviceError::OutOfRange`].
    pub(crate) fn within(self, bytes: u64) -> Result<Range<u64>, DeviceError> {
        let (begin, end) = (self.offset, self.offset.saturating_add(self.bytes));
        match end <= bytes {
            true => Ok(begin..end),
            false => Err(DeviceError::OutOfRange { begin, end, bytes }),
        }
    }
}
