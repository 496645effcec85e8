//! Devices: where memory lies and kernels run.
//!
//! [`Device`] is all that the engine knows of one: buffers, kernels, recorded entries. This is
//! the one home of unsafe code in the runtime; it maps files ([`Mapped`]), loads machine code and
//! calls it, and what it offers is safe for callers who trust their artifact.
//!
//! ```
//! use q35_device::{Span, Usage};
//!
//! let mut device = q35_device::open(Some("cpu"), &["cpu"], Some(2))?;
//! let span = Span::whole(device.alloc(8, Usage::HostReads)?, 8);
//! device.fill(span.part(4, 4), &mut |bytes| bytes.copy_from_slice(&[1, 2, 3, 4]))?;
//! device.read(span, &mut |bytes| assert_eq!(bytes, [0, 0, 0, 0, 1, 2, 3, 4]))?;
//! # Ok::<(), q35_device::DeviceError>(())
//! ```

#![allow(unsafe_code, reason = "this crate is where it lives")]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod bind;
pub mod cpu;
pub mod cuda;
mod device;
mod error;
mod handle;
mod hazard;
mod list;
mod map;
mod ptx;
pub mod ptx_sim;
pub mod vulkan;

pub use device::*;
pub use error::DeviceError;
pub use list::{devices, open};
pub use map::Mapped;
