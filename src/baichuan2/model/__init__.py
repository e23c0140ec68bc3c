"""baichuan2.model"""
