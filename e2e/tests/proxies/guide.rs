//! The configurations in the guide are those that the tests use.

/// Asserts that each line of the page's block for this language is in the configuration, in this order.
#[track_caller]
fn assert_quotes(language: &str, configuration: &str) {
    let page = include_str!("../../../docs/proxies.md");
    let (_, block) = page
        .split_once(&format!("```{language}\n"))
        .expect("a block of this language");
    let (block, _) = block.split_once("```").expect("an end of the block");
    let configuration = configuration
        .replace("{{instance_a}}", "127.0.0.1:3001")
        .replace("{{instance_b}}", "127.0.0.1:3002")
        .replace("{{timeout}}", "3600");
    let mut lines = configuration.lines().map(str::trim);
    for quoted in block.lines().map(str::trim).filter(|line| !line.is_empty()) {
        assert!(
            lines.any(|line| line == quoted),
            "{quoted:?} is not in the configuration"
        );
    }
}

#[test]
fn guide_quotes_the_configurations_of_the_proxies() {
    assert_quotes("nginx", include_str!("../../proxies/nginx.conf"));
    assert_quotes("haproxy", include_str!("../../proxies/haproxy.cfg"));
    assert_quotes("caddy", include_str!("../../proxies/Caddyfile"));
}
