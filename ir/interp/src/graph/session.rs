//! One sequence through whole programs.

use super::block::{EvalError, block};
use super::sequence::Sequence;
use super::tensor::Tensor;
use super::weights::Weights;
use q35_graph::{Port, Program};
use q35_types::Sizes;

/// A sequence and the weights that it runs on.
///
/// Tokens may come through any programs of the model, in any portions: state is kept by layer.
#[derive(Clone)]
pub struct Session<W> {
    weights: W,
    sequence: Sequence,
    position: u32,
}

impl<W: Weights> Session<W> {
    pub fn new(weights: W) -> Self {
        Session { weights, sequence: Sequence::default(), position: 0 }
    }

    /// Tokens so far.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// Run the next tokens; their hidden rows, `[T, hidden]`.
    ///
    /// Panics if `program` gives none.
    pub fn step(&mut self, program: &Program, ids: &[u32]) -> Result<Tensor, EvalError> {
        let tokens = ids.len();
        let row: Vec<i32> = (self.position as i32..).take(tokens).collect();
        let ports = vec![
            (
                Port::Ids,
                Tensor::ints([tokens], ids.iter().map(|&id| id as i32).collect::<Vec<_>>()),
            ),
            (Port::Positions, Tensor::ints([3, tokens], row.repeat(3))),
        ];
        let ports = self.run(program, ports, Sizes { tokens: tokens as u32, rows: 0 })?;
        self.position += tokens as u32;
        Ok(take(ports, Port::Hidden))
    }

    /// The logits of some rows of `hidden`, `[R, vocab]`.
    ///
    /// Panics if `head` gives none.
    pub fn logits(
        &mut self,
        head: &Program,
        hidden: &Tensor,
        rows: &[u32],
    ) -> Result<Tensor, EvalError> {
        let sizes = Sizes { tokens: hidden.shape[0] as u32, rows: rows.len() as u32 };
        let rows: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
        let ports =
            vec![(Port::Hidden, hidden.clone()), (Port::Rows, Tensor::ints([rows.len()], rows))];
        Ok(take(self.run(head, ports, sizes)?, Port::Logits))
    }

    /// What the ports hold after all blocks: each block's outputs take the place of what was there.
    fn run(
        &mut self,
        program: &Program,
        mut ports: Vec<(Port, Tensor)>,
        sizes: Sizes,
    ) -> Result<Vec<(Port, Tensor)>, EvalError> {
        for &(i, layer) in &program.sequence {
            let graph = &program.blocks[i];
            let given = block(graph, layer, &ports, &self.weights, &mut self.sequence, sizes)?;
            ports.retain(|(port, _)| given.iter().all(|(new, _)| new != port));
            ports.extend(given);
        }
        Ok(ports)
    }
}

fn take(ports: Vec<(Port, Tensor)>, port: Port) -> Tensor {
    let found = ports.into_iter().find(|(p, _)| *p == port);
    found.unwrap_or_else(|| panic!("no block gives `{}`", port.name())).1
}
