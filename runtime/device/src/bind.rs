//! A launch on a device whose kernels take addresses: checked against its kernel and memory, every
//! argument a number.

use crate::hazard::Touched;
use crate::{BoundArg, BoundLaunch, DeviceError, Repeat, Span};
use q35_artifact::{Kernel, Param};

/// The arguments of a launch, and what it will touch.
#[derive(Debug, Default)]
pub struct Addresses {
    /// One for each parameter; 0 for a list, which has no address yet.
    pub args: Vec<u64>,
    /// Parameters that are lists, with the addresses that they consist of.
    pub lists: Vec<(usize, Vec<u64>)>,
    /// The address of the number by which `each` is multiplied, or 0.
    pub times: u64,
    pub touched: Touched,
}

/// Check a launch of a kernel whose arguments must begin at multiples of `alignment`. `address_of`
/// tells where a span lies, or that it does not exist.
pub fn bind(
    launch: &BoundLaunch,
    kernel: &Kernel,
    alignment: u64,
    address_of: &dyn Fn(Span) -> Result<u64, DeviceError>,
) -> Result<Addresses, DeviceError> {
    let (found, expected) = (launch.args.len(), kernel.params.len());
    if found != expected {
        let kernel = kernel.name.clone();
        return Err(DeviceError::Arguments { kernel, found, expected });
    }
    let aligned = |span, size: u64, param: &str| {
        let address = address_of(span)?;
        if !address.is_multiple_of(size) {
            let (kernel, param) = (kernel.name.clone(), param.into());
            return Err(DeviceError::Misaligned { kernel, param, size: size as usize });
        }
        Ok(address)
    };
    let mut bound = Addresses::default();
    for (arg, param) in launch.args.iter().zip(&kernel.params) {
        let touched = &mut bound.touched;
        let mut address = |span: Span| {
            let address = aligned(span, alignment, &param.name)?;
            match param.write {
                true => touched.write(span),
                false => touched.read(span),
            }
            Ok::<_, DeviceError>(address)
        };
        match arg {
            BoundArg::Span(_) if param.table => {
                return Err(refuse(kernel, param, "one buffer", "a list of buffers"));
            }
            BoundArg::Table(_) if !param.table => {
                return Err(refuse(kernel, param, "a list of buffers", "one buffer"));
            }
            BoundArg::Span(span) => bound.args.push(address(*span)?),
            BoundArg::Table(spans) => {
                let list = spans.iter().map(|&span| address(span)).collect::<Result<_, _>>()?;
                bound.lists.push((bound.args.len(), list));
                bound.args.push(0);
            }
        }
    }
    if let Repeat::Word { buffer, offset } = launch.tasks.repeat {
        let word = Span { buffer, offset, bytes: 4 };
        bound.times = aligned(word, 4, "tasks")?;
        bound.touched.read(word);
    }
    Ok(bound)
}

fn refuse(
    kernel: &Kernel,
    param: &Param,
    found: &'static str,
    expected: &'static str,
) -> DeviceError {
    let (kernel, param) = (kernel.name.clone(), param.name.clone());
    DeviceError::Argument { kernel, param, found, expected }
}
