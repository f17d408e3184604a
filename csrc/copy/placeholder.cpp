namespace penstock {}
