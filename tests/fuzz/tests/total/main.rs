//! Everything that reads a file from outside is total: any bytes give a value or an error, and cost little.

mod artifact;
mod checkpoint;
mod config;
mod graph;
mod kernel;
mod model;
mod ptx;
mod text;
