pub mod generation_config;
pub mod sampling;
pub mod text;
