package region

import "os"

// flock does nothing: WASI has no locks, and a simulation under it is the only
// process that sees its directories.
func flock(*os.File) error { return nil }
