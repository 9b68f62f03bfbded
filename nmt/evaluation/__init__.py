"""sacreBLEU scores with signature and confidence."""
