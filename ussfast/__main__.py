from ussfast.cli.main import main

main()
