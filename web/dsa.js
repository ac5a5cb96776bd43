export function open_dsa() {}
