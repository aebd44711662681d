//! What the fuzz targets check, one module for each, and what they share.

pub mod body;
pub mod close_event;
pub mod heads;
pub mod scan;
pub mod steps;
pub mod support;
