//! The checks of the fuzz targets, one module for each, with the steps of an upstream and the seeds.

pub mod body;
pub mod close_event;
pub mod connection;
pub mod heads;
pub mod seeds;
pub mod steps;
