"""CALLING OUT: model servers over HTTP, the embedded engine, and the scripted provider that tests use."""
