"""Advantages, objectives and corrections: functions of arrays."""
