"""What tests need around them. Not for test data: factories stand beside the tests that use them."""
