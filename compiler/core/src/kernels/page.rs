//! How keys and values lie in a page of 64 tokens, so that attention is two panel products.
//!
//! ```text
//! keys    [page][head][64 / 16][width][16]    a panel is sixteen tokens:  q · Kᵀ
//! values  [page][head][width / 16][64][16]    a panel is sixteen columns: p · V
//! ```

use super::padded;
use q35_kernel::Expr;
use q35_types::step::PAGE;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pages {
    pub kv_heads: u32,
    pub width: u32,
}

impl Pages {
    /// Elements of one head's keys in one page.
    pub fn key_head(&self) -> usize {
        PAGE as usize * self.width as usize
    }

    /// Elements of one head's values in one page.
    pub fn value_head(&self) -> usize {
        PAGE as usize * padded(self.width)
    }

    /// Where the keys of a head begin.
    pub fn keys<'k>(&self, page: Expr<'k>, head: Expr<'k>) -> Expr<'k> {
        (page * self.kv_heads + head) * self.key_head()
    }

    pub fn values<'k>(&self, page: Expr<'k>, head: Expr<'k>) -> Expr<'k> {
        (page * self.kv_heads + head) * self.value_head()
    }

    /// Element `column` of the key of the token at `within` the page.
    pub fn key<'k>(&self, keys: Expr<'k>, within: Expr<'k>, column: Expr<'k>) -> Expr<'k> {
        keys + within / 16 * (16 * self.width) + within % 16 + column * 16
    }

    /// Element `column`, likewise; sixteen columns from a multiple of 16 on are neighbours.
    pub fn value<'k>(&self, values: Expr<'k>, within: Expr<'k>, column: Expr<'k>) -> Expr<'k> {
        values + column / 16 * (16 * PAGE) + within * 16 + column % 16
    }
}
