//! The guide: how to use the layer with clients, protocols and infrastructure.
//!
//! This module exists in the documentation only.

// The module depends on a feature in tests alone.
#![cfg_attr(docsrs, doc(auto_cfg = false))]

/// Declares a module for each page. The links between pages lead to modules here, and to files in the repository: the first
/// definition of a link counts.
macro_rules! pages {
    ($($page:ident)*) => {$(
        #[doc = "[clients]: self::clients"]
        #[doc = "[first_event]: self::first_event"]
        #[doc = "[llm_proxies]: self::llm_proxies"]
        #[doc = "[mcp]: self::mcp"]
        #[doc = "[migrate]: self::migrate"]
        #[doc = "[proxies]: self::proxies"]
        #[doc = "[recipes]: self::recipes"]
        #[doc = "[servers]: self::servers"]
        #[doc = "[shutdown]: self::shutdown"]
        #[doc = ""]
        #[doc = include_str!(concat!("../docs/", stringify!($page), ".md"))]
        pub mod $page {}
    )*};
}

pages! {
    clients
    shutdown
    servers
    migrate
    proxies
    instances
    llm_proxies
    first_event
    mcp
    observability
    recipes
    testing
    troubleshooting
    policies
}
