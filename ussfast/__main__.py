from ussfast.cli import main

main()
