// A labelled choice among devices of one kind. The first entry leaves the choice to the browser.

import { useId } from 'react';

interface Props {
  label: string;
  devices: MediaDeviceInfo[];
  value: string;
  onChange: (deviceId: string) => void;
  disabled?: boolean;
  testid: string;
}

export function DeviceSelect({ label, devices, value, onChange, disabled, testid }: Props) {
  const id = useId();
  const known = devices.some((device) => device.deviceId === value);
  return (
    <div className="field">
      <label htmlFor={id}>{label}</label>
      <select id={id} data-testid={testid} value={known ? value : ''} onChange={(event) => onChange(event.target.value)} disabled={disabled || devices.length === 0}>
        <option value="">{devices.length === 0 ? 'None found' : 'Default'}</option>
        {devices
          .filter((device) => device.deviceId !== 'default')
          .map((device, index) => (
            <option key={device.deviceId} value={device.deviceId}>
              {device.label || `${label} ${index + 1}`}
            </option>
          ))}
      </select>
    </div>
  );
}
