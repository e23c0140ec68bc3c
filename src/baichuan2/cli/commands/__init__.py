"""baichuan2.cli.commands"""
