"""The API's messages and stubs, generated from proto/qamserve/v1 when the package was built."""
