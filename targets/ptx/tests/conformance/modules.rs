//! What the text of a kernel says.
