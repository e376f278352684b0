"""Many runs that differ in some settings: how they are started, go on, and are compared."""
