"""HTTP surface: routers validate and delegate; errors and answers have one form each."""
