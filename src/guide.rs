//! The guide: how to use the layer with clients, protocols and infrastructure.
//!
//! This module exists in the documentation only.

#[doc = include_str!("../docs/clients.md")]
pub mod clients {}
#[doc = include_str!("../docs/instances.md")]
pub mod instances {}
#[doc = include_str!("../docs/llm_proxies.md")]
pub mod llm_proxies {}
#[doc = include_str!("../docs/mcp.md")]
pub mod mcp {}
