export const playground = { render: () => [] };
