"""baichuan2.server"""
