//! Modules and what is loaded of them.

use crate::ast::{Ast, Init};
use crate::block::Spare;
use crate::counters::Counters;
use crate::decode::{Symbols, kernel};
use crate::error::Error;
use crate::launch::{Launch, launch};
use crate::memory::Memory;
use crate::op::Kernel;
use crate::parse::parse;
use crate::types::Space;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// Bytes of all variables of a module.
const MOST_VARIABLES: u64 = 1 << 28;

/// A module's text, read.
pub struct Module {
    ast: Ast,
}

impl Module {
    pub fn parse(text: &str) -> Result<Self, Error> {
        Ok(Self { ast: parse(text)? })
    }

    /// The architecture that it is for.
    pub fn target(&self) -> &str {
        &self.ast.target
    }

    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.ast.functions.iter().filter(|f| f.entry && f.body.is_some()).map(|f| f.name.as_str())
    }

    /// Gives the module's variables their place in a memory.
    pub fn load(self, memory: &mut Memory) -> Result<Program, Error> {
        let mut symbols = Symbols::new();
        let mut placed = vec![];
        let mut total = 0;
        for variable in self.ast.variables.iter().filter(|v| v.space != Space::Shared) {
            let fail = |message: String| Err(Error::Parse { line: variable.line, message });
            if variable.external || variable.bytes == 0 {
                return fail(format!("`{}` is another module's", variable.name));
            }
            total += variable.bytes;
            if total > MOST_VARIABLES {
                return fail(format!("more than {MOST_VARIABLES} bytes of variables"));
            }
            // Allocations are aligned to 256 bytes, an odd multiple of them: more has to be made room for.
            let room = if variable.align > 256 { variable.align } else { 0 };
            let base = memory.alloc(variable.bytes + room)?;
            let address = base.next_multiple_of(variable.align);
            memory.fill(base, 0, variable.bytes + room)?;
            if symbols.insert(variable.name.clone(), (variable.space, address)).is_some() {
                return fail(format!("`{}` is there twice", variable.name));
            }
            placed.push((variable, address));
        }
        for (variable, address) in placed {
            let mut at = address;
            for init in &variable.init {
                let value = match init {
                    Init::Bytes(bytes) => bytes.clone(),
                    Init::Address { symbol, addend, bytes } => {
                        let Some((_, target)) = symbols.get(symbol) else {
                            let message =
                                format!("`{}` has the address of `{symbol}`", variable.name);
                            return Err(Error::Parse { line: variable.line, message });
                        };
                        let value = target.wrapping_add_signed(*addend).to_le_bytes();
                        value.into_iter().chain([0; 8]).take(*bytes).collect()
                    }
                };
                memory.write(at, &value)?;
                at += value.len() as u64;
            }
        }
        Ok(Program { ast: self.ast, symbols, kernels: Mutex::default() })
    }
}

/// A module in a memory. Its kernels are decoded when they are first wanted, so that one which the simulator does not
/// know keeps no other from running.
pub struct Program {
    ast: Ast,
    symbols: Symbols,
    kernels: Mutex<HashMap<String, Arc<Decoded>>>,
}

struct Decoded {
    kernel: Kernel,
    spare: Spare,
}

impl Program {
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.ast.functions.iter().filter(|f| f.entry && f.body.is_some()).map(|f| f.name.as_str())
    }

    /// The address and the size of a variable of the module.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        let (_, address) = self.symbols.get(name)?;
        let bytes = self.ast.variables.iter().find(|v| v.name == name)?.bytes;
        Some((*address, bytes))
    }

    /// Offset and bytes of each parameter of an entry.
    pub fn parameters(&self, entry: &str) -> Result<Vec<(u64, u64)>, Error> {
        Ok(self.decoded(entry)?.kernel.params.clone())
    }

    /// Bytes of shared memory that an entry has before a launch adds any.
    pub fn static_shared(&self, entry: &str) -> Result<u64, Error> {
        Ok(self.decoded(entry)?.kernel.static_shared)
    }

    /// Runs an entry to its end. Launches of one memory at the same time are like kernels on several streams: what one
    /// writes and another reads is the caller's to order.
    pub fn launch(
        &self,
        memory: &Memory,
        entry: &str,
        with: &Launch<'_>,
    ) -> Result<Counters, Error> {
        let Decoded { kernel, spare } = &*self.decoded(entry)?;
        launch(kernel, spare, memory, with)
    }

    fn decoded(&self, entry: &str) -> Result<Arc<Decoded>, Error> {
        let mut kernels = self.kernels.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(found) = kernels.get(entry) {
            return Ok(found.clone());
        }
        let kernel = kernel(&self.ast, &self.symbols, entry)?;
        let made = Arc::new(Decoded { kernel, spare: Spare::default() });
        kernels.insert(entry.to_owned(), made.clone());
        Ok(made)
    }
}
