"""HTTP API: routes and middleware. Routes validate and delegate; all errors share one response format."""
