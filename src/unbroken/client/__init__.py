"""THE OTHER END: what a reader of the public protocol runs; imports neither gateway nor store."""
